//! Loss and accuracy of each epoch as a picture: an SVG with a transparent ground and colours that are read on light and
//! on dark pages alike.

use anyhow::anyhow;
use plotters::prelude::*;

use super::train::EpochScore;

/// Width and height in pixels.
const SIZE: (u32, u32) = (720, 560);
/// Words, axes: halfway between black and white.
const GREY: RGBColor = RGBColor(0x80, 0x80, 0x80);
const TRAIN: RGBColor = RGBColor(0x3b, 0x8b, 0xd0);
const VALIDATION: RGBColor = RGBColor(0xd9, 0x7f, 0x26);
/// No line has more points: of more epochs every so many are shown.
const MAX_POINTS: usize = 1_000;
/// So few epochs are shown as points, too.
const MAX_DOTS: usize = 40;

/// One line of a panel: its name, its colour, its value at each epoch.
type Line = (&'static str, RGBColor, Vec<(f64, f64)>);

/// The course of a training: loss above, accuracy below. `best` is the epoch that early stopping chose.
///
/// # Errors
///
/// When the picture cannot be drawn.
pub fn course(history: &[EpochScore], best: Option<usize>) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let ground = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let panels = ground.split_evenly((2, 1));
        let shown = thin(history);
        let lines = |of: fn(&super::train::Score) -> f64| -> Vec<Line> {
            let train = shown.iter().map(|score| (score.epoch as f64, of(&score.train))).collect();
            let validation = shown.iter().filter_map(|score| Some((score.epoch as f64, of(&score.validation?))));
            vec![("train", TRAIN, train), ("validation", VALIDATION, validation.collect())]
        };
        let last = history.last().map_or(1.0, |score| score.epoch as f64);
        for (panel, title, lines) in [
            (&panels[0], "loss (nats)", lines(|score| score.loss)),
            (&panels[1], "accuracy", lines(|score| score.accuracy)),
        ] {
            draw(panel, title, &lines, last, best).map_err(|error| anyhow!("cannot draw the course: {error}"))?;
        }
        ground.present().map_err(|error| anyhow!("cannot draw the course: {error}"))?;
    }
    Ok(svg)
}

/// Every so many epochs, the last one among them.
fn thin(history: &[EpochScore]) -> Vec<&EpochScore> {
    let every = history.len().div_ceil(MAX_POINTS).max(1);
    history.iter().filter(|score| score.epoch % every == 0 || score.epoch == history.len()).collect()
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw(
    panel: &Area<'_>,
    title: &str,
    lines: &[Line],
    last: f64,
    best: Option<usize>,
) -> Result<(), Box<dyn std::error::Error>> {
    let values = lines.iter().flat_map(|(_, _, points)| points.iter().map(|(_, value)| *value));
    let (low, high) = values
        .filter(|value| value.is_finite())
        .fold((f64::MAX, f64::MIN), |(low, high), value| (low.min(value), high.max(value)));
    let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
    let margin = ((high - low) * 0.05).max(1e-6 * high.abs()).max(1e-9);
    let (first, last) = if last > 1.0 { (1.0, last) } else { (0.5, 1.5) };
    let font = |size: i32| ("sans-serif", size).into_font().color(&GREY);
    let mut chart = ChartBuilder::on(panel)
        .caption(title, font(15))
        .margin(8)
        .margin_right(24)
        .x_label_area_size(30)
        .y_label_area_size(64)
        .build_cartesian_2d(first..last, low - margin..high + margin)?;
    chart
        .configure_mesh()
        .axis_style(GREY)
        .bold_line_style(GREY.mix(0.3))
        .light_line_style(TRANSPARENT)
        .label_style(font(12))
        .axis_desc_style(font(12))
        .x_desc("epoch")
        .x_label_formatter(&|epoch| format!("{epoch}"))
        .y_labels(6)
        .draw()?;
    if let Some(best) = best {
        let here = [(best as f64, low - margin), (best as f64, high + margin)];
        chart
            .draw_series(std::iter::once(PathElement::new(here, GREY.stroke_width(1))))?
            .label("chosen epoch")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], GREY.stroke_width(1)));
    }
    for (name, colour, points) in lines.iter().filter(|(_, _, points)| !points.is_empty()) {
        let colour = *colour;
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        if points.len() <= MAX_DOTS {
            chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
        }
    }
    chart
        .configure_series_labels()
        .label_font(font(12))
        .border_style(TRANSPARENT)
        .background_style(TRANSPARENT)
        .position(SeriesLabelPosition::MiddleRight)
        .draw()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::train::Score;

    fn history(n: usize, validation: bool) -> Vec<EpochScore> {
        let score = |epoch: usize, shift: f64| Score {
            n_rows: 10,
            loss: 2.0 / epoch as f64 + shift,
            accuracy: 1.0 - 0.5 / epoch as f64 - shift,
        };
        (1..=n)
            .map(|epoch| EpochScore {
                epoch,
                train: score(epoch, 0.0),
                validation: validation.then(|| score(epoch, 0.1)),
            })
            .collect()
    }

    #[test]
    fn a_course_shows_both_parts_and_the_chosen_epoch() {
        let svg = course(&history(12, true), Some(7)).unwrap();
        for word in ["<svg", "loss (nats)", "accuracy", "train", "validation", "chosen epoch", "#3B8BD0", "#D97F26"] {
            assert!(svg.contains(word), "{word}: {svg}");
        }
        assert!(!svg.to_lowercase().contains("#ffffff") && !svg.contains("#000000"), "a colour of one page alone");
        let plain = course(&history(12, false), None).unwrap();
        assert!(!plain.contains("validation") && !plain.contains("chosen"), "{plain}");
    }

    #[test]
    fn any_number_of_epochs_is_a_picture_of_bounded_size() {
        for n in [0, 1, 2, 1_000, 20_000] {
            let svg = course(&history(n, true), None).unwrap();
            assert!(svg.len() < 120_000, "{n}: {}", svg.len());
        }
        let same =
            vec![
                EpochScore { train: Score { n_rows: 1, loss: 0.0, accuracy: 1.0 }, ..history(1, false)[0].clone() };
                3
            ];
        assert!(course(&same, None).is_ok());
    }
}
