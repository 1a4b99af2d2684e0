//! Images of records, with what a network looks at laid over them: the paper's figure 3.
//!
//! Responsible for turning rows of images into small PNGs as text. Who makes the maps is somebody else: they need the
//! network's gradients. A picture is the record itself: it is made only where somebody asks for it.

use std::io::Cursor;

use image::{ImageFormat, Rgb, RgbImage};
use ndarray::{ArrayView2, ArrayView3};
use serde::Serialize;

/// Nearest and farthest members of a class that are drawn.
pub const N_SHOWN: usize = 3;

/// One record.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Picture {
    /// Its number in the data set.
    pub row: usize,
    /// The image as a PNG, in base64.
    pub png: String,
    /// The image with the map over it (Grad-CAM of the true class), where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heat: Option<String>,
}

/// Why a row is no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PictureError {
    /// Rows of another shape.
    #[error("pictures: expected rows of shape (1 or 3, height, width), got {got:?}")]
    Shape {
        /// The shape of a row.
        got: Vec<usize>,
    },
    /// The encoder failed.
    #[error("pictures: {0}")]
    Encoder(String),
}

/// Whether rows of this shape can be drawn.
///
/// # Errors
/// [`PictureError::Shape`].
pub fn check_shape(row_shape: &[usize]) -> Result<(), PictureError> {
    match row_shape {
        [1 | 3, height, width] if (1..=512).contains(height) && (1..=512).contains(width) => Ok(()),
        got => Err(PictureError::Shape { got: got.to_vec() }),
    }
}

impl Picture {
    /// Draws `pixels` of shape (1 or 3, height, width), and over it `map` of any size, values from 0 to 1. Pixels from 0
    /// to 1 are drawn as they are, others between their smallest and largest.
    ///
    /// # Errors
    /// [`PictureError`].
    pub fn new(
        row: usize,
        pixels: ArrayView3<'_, f32>,
        map: Option<ArrayView2<'_, f32>>,
    ) -> Result<Self, PictureError> {
        check_shape(pixels.shape())?;
        let image = rgb(pixels);
        let heat = map.map(|map| png(&overlay(&image, map))).transpose()?;
        Ok(Self { row, png: png(&image)?, heat })
    }
}

fn rgb(pixels: ArrayView3<'_, f32>) -> RgbImage {
    let (channels, height, width) = pixels.dim();
    let (low, high) = pixels.iter().fold((0.0_f32, 1.0_f32), |(low, high), &value| (low.min(value), high.max(value)));
    RgbImage::from_fn(width as u32, height as u32, |x, y| {
        let at = |channel: usize| pixels[(channel.min(channels - 1), y as usize, x as usize)];
        Rgb([0, 1, 2].map(|channel| (255.0 * (at(channel) - low) / (high - low)).round() as u8))
    })
}

/// The image in grey, coloured by the map: dark where it is 0, yellow where it is 1.
fn overlay(image: &RgbImage, map: ArrayView2<'_, f32>) -> RgbImage {
    let (width, height) = image.dimensions();
    RgbImage::from_fn(width, height, |x, y| {
        let heat = between(map, (x as f32 + 0.5) / width as f32, (y as f32 + 0.5) / height as f32);
        let Rgb([r, g, b]) = *image.get_pixel(x, y);
        let grey = (f32::from(r) + f32::from(g) + f32::from(b)) / 3.0;
        let colour = ramp(heat);
        Rgb(colour.map(|channel| (0.5 * grey + 0.5 * channel).round().clamp(0.0, 255.0) as u8))
    })
}

/// The map at a place from 0 to 1, between its four nearest values.
fn between(map: ArrayView2<'_, f32>, x: f32, y: f32) -> f32 {
    let (height, width) = map.dim();
    let along = |place: f32, size: usize| {
        let at = (place * size as f32 - 0.5).clamp(0.0, (size - 1) as f32);
        let low = at.floor() as usize;
        (low, (low + 1).min(size - 1), at - at.floor())
    };
    if height == 0 || width == 0 {
        return 0.0;
    }
    let ((x0, x1, dx), (y0, y1, dy)) = (along(x, width), along(y, height));
    let line = |y: usize| map[(y, x0)] * (1.0 - dx) + map[(y, x1)] * dx;
    line(y0) * (1.0 - dy) + line(y1) * dy
}

/// From black over violet and red to yellow, even in lightness.
fn ramp(heat: f32) -> [f32; 3] {
    const STOPS: [[f32; 3]; 5] =
        [[0.0, 0.0, 4.0], [87.0, 16.0, 110.0], [188.0, 55.0, 84.0], [249.0, 142.0, 9.0], [252.0, 255.0, 164.0]];
    let at = heat.clamp(0.0, 1.0) * (STOPS.len() - 1) as f32;
    let low = (at.floor() as usize).min(STOPS.len() - 2);
    let share = at - low as f32;
    [0, 1, 2].map(|channel| STOPS[low][channel] * (1.0 - share) + STOPS[low + 1][channel] * share)
}

fn png(image: &RgbImage) -> Result<String, PictureError> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, ImageFormat::Png).map_err(|error| PictureError::Encoder(error.to_string()))?;
    Ok(base64(bytes.get_ref()))
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |place: usize| u32::from(three.get(place).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place)) as usize & 63];
            text.push(if place <= three.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use ndarray::{Array3, array};

    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn a_picture_is_a_png_of_the_row() {
        let pixels = Array3::from_shape_fn((1, 4, 4), |(_, y, x)| (y * 4 + x) as f32 / 15.0);
        let map = array![[0.0, 1.0], [0.0, 0.0]];
        let picture = Picture::new(7, pixels.view(), Some(map.view())).unwrap();
        assert!(picture.png.starts_with("iVBORw0KGgo") && picture.heat.as_ref().unwrap().starts_with("iVBORw0KGgo"));
        let image = rgb(pixels.view());
        assert_eq!((image.get_pixel(0, 0).0, image.get_pixel(3, 3).0), ([0; 3], [255; 3]));
        // Hot at the top right: more red there than at the bottom left.
        let hot = overlay(&image, map.view());
        assert!(hot.get_pixel(3, 0).0[0] > hot.get_pixel(0, 3).0[0].saturating_sub(200) + 50);
        assert!((between(map.view(), 0.99, 0.01) - 1.0).abs() < 1e-6 && between(map.view(), 0.01, 0.99) == 0.0);
    }

    #[test]
    fn rows_that_are_no_images_are_refused() {
        assert!(check_shape(&[3, 32, 32]).is_ok());
        for shape in [&[446][..], &[2, 8, 8], &[1, 0, 8], &[8, 8]] {
            assert!(check_shape(shape).unwrap_err().to_string().contains("expected rows of shape"), "{shape:?}");
        }
    }
}
