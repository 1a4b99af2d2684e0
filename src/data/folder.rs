//! A folder of images, one folder a class: the layout that torchvision's `ImageFolder` reads.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use image::{ColorType, DynamicImage, ImageReader, Limits};

use super::values::Rows;
use super::{Classes, DataError, Dataset};

/// No image larger than this on a side is decoded.
const MAX_SIDE: u32 = 4096;

/// Loads `dir/train/<class>/*` then `dir/test/<class>/*`, or `dir/<class>/*` where `dir` holds no `train`.
/// Classes are sorted by name, files within a class too.
pub(super) fn load(dir: &Path) -> Result<Dataset, DataError> {
    let parts: Vec<PathBuf> = if dir.join("train").is_dir() {
        ["train", "test"].iter().map(|part| dir.join(part)).filter(|part| part.is_dir()).collect()
    } else {
        vec![dir.to_owned()]
    };
    let mut names = BTreeSet::new();
    for part in &parts {
        for path in sorted_entries(part, Path::is_dir)? {
            names.insert(file_name(&path)?);
        }
    }
    let class_names: Vec<String> = names.into_iter().collect();
    let mut images = Images::default();
    let mut labels = Vec::new();
    for part in &parts {
        for (label, name) in (0u32..).zip(&class_names) {
            let class = part.join(name);
            if !class.is_dir() {
                continue;
            }
            for path in sorted_entries(&class, is_image)? {
                images.push(&path)?;
                labels.push(label);
            }
        }
    }
    let Some((colour, width, height)) = images.first.filter(|_| class_names.len() >= 2) else {
        let got = format!("{} images in {} class folders", labels.len(), class_names.len());
        return Err(DataError::bad_file(dir, "images (.jpg, .jpeg, .png) in at least 2 class folders", got));
    };
    let row_shape = vec![usize::from(colour.channel_count()), height as usize, width as usize];
    Ok(Dataset::new(row_shape, Classes::named(class_names), labels, Rows::Pixels(images.pixels)))
}

/// The pixels of all images so far, planes first, and what the first of them was.
#[derive(Default)]
struct Images {
    first: Option<(ColorType, u32, u32)>,
    pixels: Vec<u8>,
}

impl Images {
    fn push(&mut self, path: &Path) -> Result<(), DataError> {
        let image = decode(path)?;
        let kind = (image.color(), image.width(), image.height());
        let first = *self.first.get_or_insert(kind);
        if first != kind {
            return Err(DataError::bad_file(path, format!("{} as the first image", words(first)), words(kind)));
        }
        let n_channels = usize::from(kind.0.channel_count());
        let bytes = image.as_bytes();
        for channel in 0..n_channels {
            self.pixels.extend(bytes.iter().skip(channel).step_by(n_channels));
        }
        Ok(())
    }
}

fn words((colour, width, height): (ColorType, u32, u32)) -> String {
    format!("{width} x {height} {colour:?}")
}

fn decode(path: &Path) -> Result<DynamicImage, DataError> {
    let mut reader = ImageReader::open(path)
        .and_then(ImageReader::with_guessed_format)
        .map_err(|error| DataError::io(path, error))?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    reader.limits(limits);
    let image = reader
        .decode()
        .map_err(|error| DataError::bad_file(path, "an image that can be decoded", error.to_string()))?;
    match image.color() {
        ColorType::L8 | ColorType::Rgb8 => Ok(image),
        other => Err(DataError::bad_file(path, "8 bits of grey or of red, green, blue", format!("{other:?}"))),
    }
}

/// Whether a file, there or yet to be written, is one of these images or lies in a folder that is read as a class.
pub(super) fn holds(dir: &Path, file: &Path) -> bool {
    let (Ok(dir), Some(file)) = (dir.canonicalize(), canonical(file)) else { return false };
    let Ok(inner) = file.strip_prefix(&dir) else { return false };
    let in_folder = |dir: &Path| file.strip_prefix(dir).is_ok_and(|inner| inner.components().count() > 1);
    let is_class = match dir.join("train").is_dir() {
        true => ["train", "test"].iter().any(|part| in_folder(&dir.join(part))),
        false => in_folder(&dir),
    };
    is_class || (inner.components().count() > 0 && file.exists() && is_image(&file))
}

/// The path without links, of a file or folder that may not be there yet.
fn canonical(path: &Path) -> Option<PathBuf> {
    let path = std::path::absolute(path).ok()?;
    path.ancestors().find_map(|there| {
        let rest = path.strip_prefix(there).ok()?;
        let there = there.canonicalize().ok()?;
        Some(if rest.as_os_str().is_empty() { there } else { there.join(rest) })
    })
}

pub(super) fn is_image(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
    matches!(ending.as_deref(), Some("jpg" | "jpeg" | "png"))
}

fn file_name(path: &Path) -> Result<String, DataError> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned).ok_or_else(|| DataError::bad_file(path, "a class folder named in UTF-8", "other bytes"))
}

fn sorted_entries(dir: &Path, wanted: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>, DataError> {
    let mut paths = fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>())
        .map_err(|error| DataError::io(dir, error))?;
    paths.retain(|path| wanted(path));
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, Luma, Rgb, RgbImage};

    use super::*;

    fn folder(classes: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for class in classes {
            fs::create_dir_all(dir.path().join(class)).unwrap();
        }
        dir
    }

    #[test]
    fn classes_are_sorted_and_train_comes_before_test() {
        let dir = folder(&["train/b", "train/a", "test/a", "test/b"]);
        let colours = [("train/b/0.png", 1), ("train/a/1.png", 2), ("train/a/0.png", 3), ("test/a/0.png", 4)];
        for (path, red) in colours {
            RgbImage::from_pixel(2, 1, Rgb([red, 10, 20])).save(dir.path().join(path)).unwrap();
        }
        fs::write(dir.path().join("train/a/notes.txt"), "not an image").unwrap();
        let data = load(dir.path()).unwrap();
        assert_eq!(data.class_names(), ["a", "b"]);
        assert_eq!(data.labels(), [0, 0, 1, 0]);
        assert_eq!(data.row_shape(), [3, 1, 2]);
        let Rows::Pixels(pixels) = &data.rows else { panic!("images are kept as bytes") };
        assert_eq!(pixels[..6], [3, 3, 10, 10, 20, 20], "planes first");
        assert_eq!([pixels[6], pixels[12], pixels[18]], [2, 1, 4]);
    }

    #[test]
    fn an_image_of_another_size_or_colour_is_named() {
        let dir = folder(&["a", "b"]);
        RgbImage::new(2, 2).save(dir.path().join("a/0.png")).unwrap();
        RgbImage::new(2, 3).save(dir.path().join("b/0.png")).unwrap();
        let error = load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("b/0.png: expected 2 x 2 Rgb8 as the first image, got 2 x 3 Rgb8"), "{error}");
        GrayImage::from_pixel(2, 2, Luma([1])).save(dir.path().join("b/0.png")).unwrap();
        assert!(load(dir.path()).unwrap_err().to_string().contains("got 2 x 2 L8"));
    }

    #[test]
    fn bytes_that_are_no_image_and_folders_without_classes_are_refused() {
        let dir = folder(&["a", "b"]);
        assert!(load(dir.path()).unwrap_err().to_string().contains("got 0 images in 2 class folders"));
        fs::write(dir.path().join("a/0.png"), b"\x89PNG\r\n\x1a\nrubbish").unwrap();
        assert!(load(dir.path()).unwrap_err().to_string().contains("an image that can be decoded"));
        assert!(matches!(load(&dir.path().join("none")), Err(DataError::Io { .. })));
    }
}
