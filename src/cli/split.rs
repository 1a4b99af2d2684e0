//! `sordino split`: which row serves which purpose, as a file that every later command takes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::{Context as _, bail, ensure};

use super::make_folder_of;
use crate::data::{
    DataSource, Dataset, Drawing, Groups, Part, PartSizes, Split, check_writable, is_same_file, read_row_numbers,
};

/// Draw disjoint parts of the rows and write them as an index file, which `train`, `centroids build` and `audit`
/// take as --split.
///
/// A size is a number of rows (8000), a share of all rows (0.5 or 50%), or, for one part, `rest`. Rows that are left
/// over belong to no part. The same arguments draw the same rows everywhere.
///
/// With --split no part is drawn: rows are taken out of the train part of an older split (--without).
#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(long, value_name = "SOURCE", help = super::data_help("The labelled rows"))]
    data: DataSource,
    /// Where to write the split file.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Rows to fit on: the members of a membership attack.
    #[arg(long, value_name = "SIZE", required_unless_present = "split")]
    train: Option<Amount>,
    /// Rows to look at while training.
    #[arg(long, value_name = "SIZE", default_value = "0")]
    validation: Amount,
    /// Rows for temperatures, thresholds and prototypes.
    #[arg(long, value_name = "SIZE", default_value = "0")]
    calibration: Amount,
    /// Rows kept out of every fit: the non-members.
    #[arg(long, value_name = "SIZE", default_value = "0")]
    test: Amount,
    /// Rows for shadow models.
    #[arg(long, value_name = "SIZE", default_value = "0")]
    shadow: Amount,
    /// Seed of the draw.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Give each part the classes in the data's proportions, to within two rows.
    #[arg(long)]
    stratified: bool,
    /// Keep near-duplicates together in one part. How near is near may be given, else it is 0.04 for images in colour and
    /// 0.005 for grey ones (cosine distance of the images, averaged over a grid, each channel less its mean), 0.1 for
    /// rows of 0 and 1 (Jaccard distance), 0.02 for other numbers (root mean square difference, in standard
    /// deviations). 0 finds exact copies alone.
    #[arg(long, value_name = "RADIUS", num_args = 0..=1, require_equals = true)]
    group_near_duplicates: Option<Option<f64>>,
    /// Take an older split instead of drawing one.
    #[arg(
        long,
        value_name = "FILE",
        requires = "without",
        conflicts_with_all = ["train", "validation", "calibration", "test", "shadow", "seed", "stratified", "group_near_duplicates"]
    )]
    split: Option<PathBuf>,
    /// Take the rows that this file names out of the train part: one row number a line, counted from 0; `#` starts a
    /// comment. They belong to no part then, and the split records them.
    #[arg(long, value_name = "FILE")]
    without: Option<PathBuf>,
}

/// A larger group is doubted.
const LARGE_GROUP: usize = 100;

/// The size of a part as it is given.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Amount {
    Rows(usize),
    /// In `[0, 1]`; rounded down to whole rows.
    Share(f64),
    Rest,
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(given: &str) -> Result<Self, String> {
        let share = |text: &str, whole: f64| {
            let share = text.parse::<f64>().ok().map(|number| number / whole);
            share.filter(|share| (0.0..=1.0).contains(share)).map(Self::Share)
        };
        let amount = match given.strip_suffix('%') {
            _ if given == "rest" => Some(Self::Rest),
            Some(percent) => share(percent, 100.0),
            None if given.contains('.') => share(given, 1.0),
            None => given.parse().ok().map(Self::Rows),
        };
        amount.ok_or_else(|| "expected a number of rows (8000), a share (0.5 or 50%) or rest".to_owned())
    }
}

/// Runs the command.
///
/// # Errors
/// When a file cannot be read or written, or the sizes do not fit the data.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    args.check_out()?;
    let removed = args.without.as_deref().map(read_row_numbers).transpose()?;
    let dataset = Dataset::load(&args.data)?;
    let mut split = match &args.split {
        Some(path) => read(path, &dataset)?,
        None => args.draw(&dataset)?,
    };
    if let Some(rows) = removed {
        split = split.without(&rows).context("--without")?;
        split.check_classes(&dataset)?;
    }
    split.write(&args.out)?;
    print!("{}", report(&args.out, &split, &dataset));
    Ok(ExitCode::SUCCESS)
}

fn read(path: &Path, dataset: &Dataset) -> anyhow::Result<Split> {
    let split = Split::read(path)?;
    split.check(dataset).with_context(|| path.display().to_string())?;
    Ok(split)
}

impl Args {
    fn check_out(&self) -> anyhow::Result<()> {
        let inputs = [self.split.as_ref(), self.without.as_ref()];
        let is_input = inputs.into_iter().flatten().any(|input| is_same_file(input, &self.out));
        ensure!(!is_input && !self.data.reads(&self.out), "--out: {} is an input", self.out.display());
        make_folder_of(&self.out)?;
        check_writable(&self.out).with_context(|| format!("cannot write {}", self.out.display()))
    }

    fn draw(&self, dataset: &Dataset) -> anyhow::Result<Split> {
        let sizes = self.sizes(dataset.n_rows())?;
        let groups = self.group_near_duplicates.map(|radius| Groups::find(dataset, radius)).transpose()?;
        let drawing = Drawing { sizes, seed: self.seed, stratified: self.stratified, groups: groups.as_ref() };
        Ok(Split::draw_with(&self.data, dataset, &drawing)?)
    }

    fn sizes(&self, n_rows: usize) -> anyhow::Result<PartSizes> {
        let train = self.train.unwrap_or(Amount::Rows(0));
        let amounts = [train, self.validation, self.calibration, self.test, self.shadow];
        let mut sizes = PartSizes::default();
        let mut rest = None;
        for (part, amount) in Part::ALL.into_iter().zip(amounts) {
            *sizes.of_mut(part) = match amount {
                Amount::Rows(rows) => rows,
                Amount::Share(share) => (share * n_rows as f64).floor() as usize,
                Amount::Rest if rest.replace(part).is_some() => bail!("expected the size rest for one part at most"),
                Amount::Rest => 0,
            };
        }
        if let Some(part) = rest {
            *sizes.of_mut(part) = n_rows.saturating_sub(sizes.total());
        }
        Ok(sizes)
    }
}

/// What was done, in a few lines.
fn report(out: &Path, split: &Split, dataset: &Dataset) -> String {
    let sizes = split.sizes();
    let parts = Part::ALL.map(|part| format!("{} {}", part.name(), sizes.of(part))).join(", ");
    let unused = dataset.n_rows() - sizes.total();
    let mut text = format!("{}\n  {} rows: {parts}; in no part {unused}\n", split.source(), dataset.n_rows());
    if split.drawn().stratified {
        text += "  stratified by class\n";
    }
    if let Some(near) = split.drawn().near_duplicates {
        let (n_rows, n_groups, largest) = (near.n_rows, near.n_groups, near.largest);
        text += &format!(
            "  near-duplicates ({}, radius {}): {n_rows} rows in {n_groups} groups, the largest of {largest}; no group \
             is in two parts\n",
            near.measure.words(),
            near.radius
        );
        if largest > LARGE_GROUP {
            text += "  note: so large a group is a chain of rows that are alike; a smaller radius tells them apart\n";
        }
    }
    if !split.removed().is_empty() {
        text += &format!("  of these, {} rows taken out of the train part\n", split.removed().len());
    }
    text + &format!("wrote {} (seed {}, sha256 {})\n", out.display(), split.seed(), split.digest())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(words: &[&str]) -> Result<Args, clap::Error> {
        Line::try_parse_from([&["split", "--data", "csv:t", "--out", "o"], words].concat()).map(|line| line.args)
    }

    #[test]
    fn a_size_is_a_number_a_share_or_the_rest() {
        let read = |text: &str| text.parse::<Amount>();
        assert_eq!(read("80"), Ok(Amount::Rows(80)));
        assert_eq!(read("0.25"), Ok(Amount::Share(0.25)));
        assert_eq!(read("25%"), Ok(Amount::Share(0.25)));
        assert_eq!(read("1"), Ok(Amount::Rows(1)), "one row, not all of them");
        assert_eq!(read("rest"), Ok(Amount::Rest));
        for bad in ["", "-1", "1.5", "101%", "NaN.", "a", "%"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_whole_rows_and_the_rest_takes_what_is_left() {
        let args = parse(&["--train", "0.8", "--test", "rest"]).unwrap();
        // The counts of paper A's split of Purchase100.
        let sizes = args.sizes(197_324).unwrap();
        assert_eq!((sizes.train, sizes.test), (157_859, 39_465));
        assert!(parse(&["--train", "rest", "--test", "rest"]).unwrap().sizes(10).is_err());
        let too_many = parse(&["--train", "8", "--test", "8", "--shadow", "rest"]).unwrap().sizes(10).unwrap();
        assert_eq!((too_many.total(), too_many.shadow), (16, 0), "the draw refuses it");
    }

    #[test]
    fn the_arguments_hang_together() {
        assert!(parse(&[]).is_err(), "a split needs train rows");
        assert!(parse(&["--split", "s"]).is_err(), "nothing to do");
        assert!(parse(&["--split", "s", "--without", "w"]).is_ok());
        assert!(parse(&["--split", "s", "--without", "w", "--train", "5"]).is_err());
        assert!(parse(&["--train", "5", "--without", "w", "--stratified"]).is_ok());
        let radius = |word| parse(&["--train", "5", word, "--stratified"]).unwrap().group_near_duplicates;
        assert_eq!(radius("--group-near-duplicates"), Some(None));
        assert_eq!(radius("--group-near-duplicates=0.1"), Some(Some(0.1)));
    }
}
