//! Places on paper: scales, axes and paths, as inline SVG.

use std::fmt::Write as _;

use maud::{Markup, html};

/// How values are laid out along an axis.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scale {
    /// Evenly, from the first to the second.
    Linear(f64, f64),
    /// By their logarithm, from the first to the second; both above 0.
    Log(f64, f64),
}

impl Scale {
    /// The place of a value between 0 and 1; values outside stand at the ends.
    pub(super) fn place(self, value: f64) -> f64 {
        let place = match self {
            Self::Linear(low, high) => (value - low) / (high - low),
            Self::Log(low, high) => (value.max(low) / low).ln() / (high / low).ln(),
        };
        if place.is_nan() { 0.0 } else { place.clamp(0.0, 1.0) }
    }

    /// Values that bear a mark, and what it says.
    pub(super) fn ticks(self) -> Vec<(f64, String)> {
        match self {
            Self::Linear(low, high) => {
                let step = round_step((high - low) / 5.0);
                let first = (low / step).ceil() as i64;
                let last = (high / step + 1e-9).floor() as i64;
                (first..=last).map(|n| (n as f64 * step, tick_words(n as f64 * step, step))).collect()
            }
            Self::Log(low, high) => {
                let decades = (low.log10().ceil() as i32)..=(high.log10() + 1e-9).floor() as i32;
                decades.map(|decade| (10_f64.powi(decade), percent(10_f64.powi(decade)))).collect()
            }
        }
    }
}

/// 1, 2 or 5 times a power of ten, at least `rough`.
fn round_step(rough: f64) -> f64 {
    let rough = if rough.is_finite() && rough > 0.0 { rough } else { 1.0 };
    let power = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|step| step * power).find(|&step| step >= rough * 0.999).unwrap_or(10.0 * power)
}

fn tick_words(value: f64, step: f64) -> String {
    let digits = (-step.log10().floor()).clamp(0.0, 6.0) as usize;
    format!("{:.digits$}", value + 0.0)
}

fn percent(rate: f64) -> String {
    let text = format!("{:.6}", 100.0 * rate);
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A frame with two axes.
pub(super) struct Frame {
    pub(super) width: f64,
    pub(super) height: f64,
    /// Room at the left, right, top and bottom.
    pub(super) room: [f64; 4],
    pub(super) x: Scale,
    pub(super) y: Scale,
}

impl Frame {
    pub(super) fn x(&self, value: f64) -> f64 {
        self.room[0] + self.x.place(value) * (self.width - self.room[0] - self.room[1])
    }

    pub(super) fn y(&self, value: f64) -> f64 {
        self.height - self.room[3] - self.y.place(value) * (self.height - self.room[2] - self.room[3])
    }

    /// The inner edges: left, right, top, bottom.
    pub(super) fn edges(&self) -> [f64; 4] {
        [self.room[0], self.width - self.room[1], self.room[2], self.height - self.room[3]]
    }

    /// A path through values.
    pub(super) fn path(&self, points: impl IntoIterator<Item = (f64, f64)>) -> String {
        let mut path = String::new();
        for (x, y) in points {
            let command = if path.is_empty() { 'M' } else { 'L' };
            let _ = write!(path, "{command}{:.2} {:.2}", self.x(x), self.y(y));
        }
        path
    }

    /// A closed path between two lines over the same values.
    pub(super) fn band(&self, points: &[(f64, f64, f64)]) -> String {
        let up = points.iter().map(|&(x, low, _)| (x, low));
        let down = points.iter().rev().map(|&(x, _, high)| (x, high));
        self.path(up.chain(down)) + "Z"
    }

    /// The drawing: `title` is read aloud, `x_name` and `y_name` stand at the axes.
    pub(super) fn draw(&self, title: &str, x_name: &str, y_name: &str, inside: &Markup) -> Markup {
        let [left, right, top, bottom] = self.edges();
        let middle = (top + bottom) / 2.0;
        html! {
            div .chart { svg viewBox=(format!("0 0 {} {}", self.width, self.height)) role="img" aria-label=(title) {
                @for (value, words) in self.x.ticks() {
                    @let x = format!("{:.2}", self.x(value));
                    line .grid x1=(x) x2=(x) y1=(top) y2=(bottom) {}
                    text .tick x=(x) y=(bottom + 14.0) text-anchor="middle" { (words) }
                }
                @for (value, words) in self.y.ticks() {
                    @let y = format!("{:.2}", self.y(value));
                    line .grid x1=(left) x2=(right) y1=(y) y2=(y) {}
                    text .tick x=(left - 6.0) y=(y) dy="0.35em" text-anchor="end" { (words) }
                }
                (inside)
                path .axis d=(format!("M{left} {top}V{bottom}H{right}")) {}
                text .name x=((left + right) / 2.0) y=(self.height - 4.0) text-anchor="middle" { (x_name) }
                @if !y_name.is_empty() {
                    text .name x="12" y=(middle) text-anchor="middle" transform=(format!("rotate(-90 12 {middle})")) { (y_name) }
                }
            } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_is_on_the_paper() {
        for scale in [Scale::Linear(-1.0, 3.0), Scale::Log(1e-4, 1.0), Scale::Linear(2.0, 2.0)] {
            for value in [-1e300, -1.0, 0.0, 1e-9, 0.5, 2.0, 1e300, f64::NAN, f64::INFINITY] {
                let place = scale.place(value);
                assert!((0.0..=1.0).contains(&place), "{scale:?} {value} {place}");
            }
        }
    }

    #[test]
    fn ticks_are_round() {
        let words = |scale: Scale| scale.ticks().into_iter().map(|(_, words)| words).collect::<Vec<_>>();
        assert_eq!(words(Scale::Linear(0.0, 1.0)), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(words(Scale::Linear(-3.0, 17.0)), ["0", "5", "10", "15"]);
        assert_eq!(words(Scale::Log(1e-3, 1.0)), ["0.1 %", "1 %", "10 %", "100 %"]);
    }
}
