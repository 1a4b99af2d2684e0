//! Banks on disk, with a worker that trains nothing: what is kept, resumed, merged and refused.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::inclusion::{Design, Inclusion, Pool};
use super::member::{MemberResults, State, checkpoint_file, model_file, record_file, state};
use super::merge::{Bank, Gaps, MANIFEST_FILE, merge, seal};
use super::place::Place;
use super::plan::{INCLUSION_FILE, PLAN_FILE, Planned, SPLIT_FILE};
use super::run::{Assignment, Ended, Event, Keep, Run, Shard, Sitting, Trained, Worker};
use crate::data::{DataSource, Dataset, PartSizes, Split, parse_table};
use crate::lab::network::{Activation, Architecture};
use crate::lab::recipe::Recipe;
use crate::lab::record::{DataRecord, MachineRecord};

fn dataset() -> Dataset {
    let rows: Vec<String> = (0..60).map(|row| format!("{},{}.5,{}", row % 3, row, row * row)).collect();
    parse_table(rows.join("\n").as_bytes()).unwrap()
}

fn planned(design: Design, seed: u64) -> Planned {
    let dataset = dataset();
    let source: DataSource = "csv:t.csv".parse().unwrap();
    let sizes = PartSizes { train: 40, validation: 0, calibration: 0, test: 20, shadow: 0 };
    let split = Split::draw(&source, &dataset, sizes, 3).unwrap();
    let pool = Pool::new(split.part(crate::data::Part::Train)).unwrap();
    let data = DataRecord::of(source.to_string(), &dataset);
    let recipe = Recipe::plain(Architecture::Mlp { hidden: vec![4], activation: Activation::Relu }, 2, seed);
    let inclusion = Inclusion::draw(design, &pool, seed).unwrap();
    Planned::new(recipe, (&dataset, data), split, vec!["train".to_owned()], inclusion).unwrap()
}

const SHARE: Design = Design::Share { models: 7, share: 0.5 };

/// "Trains" a model whose bytes are what it was given; stops itself before a number of models.
#[derive(Default)]
struct Fake {
    stop_before: Option<usize>,
    fails_at: Option<usize>,
    n_trained: AtomicUsize,
    seen: Mutex<Vec<Assignment>>,
}

impl Worker for Fake {
    fn check_checkpoint(&self, bytes: &[u8]) -> anyhow::Result<()> {
        anyhow::ensure!(bytes != b"cut", "the checkpoint is damaged");
        Ok(())
    }

    fn train(&self, assignment: Assignment, keep: &mut Keep<'_>, stop: &AtomicBool) -> anyhow::Result<Sitting> {
        keep(&mut || Ok(format!("an epoch of {}", assignment.member).into_bytes()))?;
        anyhow::ensure!(self.fails_at != Some(assignment.member), "the loss is NaN");
        if self.stop_before == Some(self.n_trained.fetch_add(1, Ordering::SeqCst)) {
            stop.store(true, Ordering::SeqCst);
            return Ok(Sitting::Interrupted(format!("half of {}", assignment.member).into_bytes()));
        }
        let model = format!("{} {} {:?}", assignment.member, assignment.recipe.seed, assignment.rows).into_bytes();
        self.seen.lock().unwrap().push(assignment);
        Ok(Sitting::Finished(Box::new(Trained {
            model,
            results: MemberResults::default(),
            history: vec![],
            privacy: None,
        })))
    }
}

fn run_with(place: &Place, planned: &Planned, worker: &Fake, shard: &str) -> (anyhow::Result<Ended>, Vec<Event>) {
    let machine = MachineRecord { cpu: "a processor".to_owned(), n_cores: 1 };
    let shard = shard.parse().unwrap();
    let run = Run { place, planned, worker, shard, threads: 1, code: None, machine };
    let events = Mutex::new(Vec::new());
    let ended = run.run(&AtomicBool::new(false), &|event| events.lock().unwrap().push(event));
    (ended, events.into_inner().unwrap())
}

#[test]
fn a_checkpoint_is_kept_behind_each_epoch_and_a_damaged_one_is_named_and_not_gone_on_from() {
    let (_dir, place) = place();
    let planned = planned(SHARE, 1);
    planned.write(&place).unwrap();
    let worker = Fake { fails_at: Some(2), ..Fake::default() };
    let (ended, _) = run_with(&place, &planned, &worker, "2/7");
    assert!(ended.is_err());
    assert_eq!(place.read(&checkpoint_file(2)).unwrap().unwrap(), b"an epoch of 2");
    let (ended, _) = run_with(&place, &planned, &worker, "2/7");
    let error = format!("{:#}", ended.unwrap_err());
    assert!(error.contains("from model-00002.checkpoint: the loss is NaN"), "{error}");
    place.write(&checkpoint_file(2), b"cut").unwrap();
    let worker = Fake::default();
    let (ended, events) = run_with(&place, &planned, &worker, "2/7");
    assert_eq!(ended.unwrap(), Ended::Complete);
    assert!(worker.seen.lock().unwrap()[0].checkpoint.is_none());
    let named = "model-00002.checkpoint: the checkpoint is damaged".to_owned();
    assert!(events.contains(&Event::Unfit(2, named)), "{events:?}");
}

fn run(place: &Place, planned: &Planned, shard: &str) -> Vec<Event> {
    let (ended, events) = run_with(place, planned, &Fake::default(), shard);
    assert_eq!(ended.unwrap(), Ended::Complete);
    events
}

fn place() -> (tempfile::TempDir, Place) {
    let dir = tempfile::tempdir().unwrap();
    let place = Place::open(dir.path().to_str().unwrap()).unwrap();
    (dir, place)
}

fn n_done(events: &[Event]) -> usize {
    events.iter().filter(|event| matches!(event, Event::Done(_))).count()
}

#[test]
fn a_plan_comes_back_as_it_was_and_another_plan_does_not_replace_it() {
    let (_dir, place) = place();
    let own = planned(SHARE, 1);
    own.write(&place).unwrap();
    own.write(&place).unwrap();
    let read = Planned::read(&place).unwrap();
    assert_eq!((&read.plan, &read.inclusion, &read.split), (&own.plan, &own.inclusion, &own.split));
    assert_eq!(own.plan.seeds.len(), 7);
    let mut seeds = own.plan.seeds.clone();
    seeds.sort_unstable();
    seeds.dedup();
    assert!(seeds.len() == 7 && seeds.iter().all(|seed| *seed < 1 << 53));

    let error = planned(SHARE, 2).write(&place).unwrap_err().to_string();
    assert!(error.contains("the plan of another bank (its recipe differs, its rows are dealt otherwise)"), "{error}");
    assert!(planned(Design::Shards { shards: 3, slices: 1 }, 1).write(&place).is_err());
}

#[test]
fn a_plan_with_files_of_another_is_refused() {
    for file in [INCLUSION_FILE, SPLIT_FILE] {
        let (_dir, place) = place();
        planned(SHARE, 1).write(&place).unwrap();
        let changed = match file {
            SPLIT_FILE => {
                String::from_utf8(place.read(file).unwrap().unwrap()).unwrap().replace(":3,", ":4,").into_bytes()
            }
            _ => super::matrix_file::write(&planned(SHARE, 2).inclusion).unwrap(),
        };
        place.write(file, &changed).unwrap();
        let error = format!("{:#}", Planned::read(&place).unwrap_err());
        assert!(error.contains(&format!("{file}: expected the file with SHA-256")), "{error}");
        place.remove(file).unwrap();
        assert!(format!("{:#}", Planned::read(&place).unwrap_err()).contains(&format!("holds no {file}")));
    }
    let (_dir, place) = place();
    planned(SHARE, 1).write(&place).unwrap();
    let text = String::from_utf8(place.read(PLAN_FILE).unwrap().unwrap()).unwrap();
    for (from, to, expected) in [
        ("\"format_version\": 1", "\"format_version\": 2", "got sordino.bank-plan version 2"),
        ("\"models\": 7", "\"models\": 6", "expected 6 seeds, one for each model, got 7"),
        ("\"epochs\": 2", "\"epochs\": 0", "epochs: expected at least 1"),
        ("\"pool\"", "\"poll\"", "the plan of a bank"),
    ] {
        assert!(text.contains(from), "{from}");
        place.write(PLAN_FILE, text.replace(from, to).as_bytes()).unwrap();
        let error = format!("{:#}", Planned::read(&place).unwrap_err());
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn each_model_gets_its_rows_and_its_seed() {
    let (_dir, place) = place();
    let planned = planned(SHARE, 1);
    planned.write(&place).unwrap();
    let worker = Fake::default();
    let (ended, _) = run_with(&place, &planned, &worker, "0/1");
    assert_eq!(ended.unwrap(), Ended::Complete);
    let mut seen = worker.seen.into_inner().unwrap();
    seen.sort_by_key(|assignment| assignment.member);
    for (member, assignment) in seen.iter().enumerate() {
        assert_eq!((assignment.member, assignment.recipe.seed), (member, planned.plan.seeds[member]));
        assert_eq!(assignment.rows, planned.inclusion.members(member));
        assert_eq!(assignment.rows.len() + assignment.strangers.len(), 40);
    }
    let bank = seal(&place, &planned).unwrap();
    let read = Bank::read(&place).unwrap();
    assert_eq!(read.manifest, bank);
    assert!(read.model(&place, 6).unwrap().starts_with(b"6 "));
}

#[test]
fn a_stopped_run_goes_on_from_its_checkpoint_and_trains_nothing_twice() {
    let (_dir, place) = place();
    let planned = planned(SHARE, 1);
    planned.write(&place).unwrap();
    let worker = Fake { stop_before: Some(3), ..Fake::default() };
    let (ended, events) = run_with(&place, &planned, &worker, "0/1");
    assert_eq!((ended.unwrap(), n_done(&events)), (Ended::Interrupted, 3));
    assert_eq!(place.read(&checkpoint_file(3)).unwrap().unwrap(), b"half of 3");
    assert!(seal(&place, &planned).unwrap_err().downcast_ref::<Gaps>().unwrap().0.len() == 4);
    // What a process that was killed leaves: a model without its record.
    place.write(&model_file(5), b"half-written").unwrap();

    let worker = Fake::default();
    let (ended, events) = run_with(&place, &planned, &worker, "0/1");
    assert_eq!((ended.unwrap(), n_done(&events)), (Ended::Complete, 4));
    assert!(events.contains(&Event::Started(3, true)) && events.contains(&Event::Stands(0)));
    assert_eq!(worker.seen.into_inner().unwrap()[0].checkpoint.as_deref(), Some(b"half of 3".as_slice()));
    assert_eq!(place.read(&checkpoint_file(3)).unwrap(), None);

    let (_whole_dir, whole) = self::place();
    planned.write(&whole).unwrap();
    run(&whole, &planned, "0/1");
    assert_eq!(seal(&place, &planned).unwrap().digest, seal(&whole, &planned).unwrap().digest);
}

#[test]
fn what_does_not_fit_is_trained_anew() {
    let (_dir, place) = place();
    let planned = planned(SHARE, 1);
    planned.write(&place).unwrap();
    run(&place, &planned, "0/1");
    let digest = seal(&place, &planned).unwrap().digest;
    place.write(&model_file(1), b"changed").unwrap();
    place.remove(&model_file(2)).unwrap();
    place.write(&record_file(3), b"{}").unwrap();
    let other = String::from_utf8(place.read(&record_file(4)).unwrap().unwrap()).unwrap();
    place.write(&record_file(4), other.replace(&planned.plan.digest(), &"0".repeat(64)).as_bytes()).unwrap();
    let unfit: Vec<usize> =
        (0..7).filter(|&member| matches!(state(&place, &planned, member).unwrap(), State::Unfit(_))).collect();
    assert_eq!(unfit, [1, 2, 3, 4]);
    assert!(Bank::read(&place).unwrap().model(&place, 1).unwrap_err().to_string().contains("expected SHA-256"));
    let events = run(&place, &planned, "0/1");
    assert_eq!(n_done(&events), 4);
    assert_eq!(seal(&place, &planned).unwrap().digest, digest);
}

#[test]
fn a_model_that_fails_does_not_stop_the_others_and_is_named() {
    let (_dir, place) = place();
    let planned = planned(SHARE, 1);
    planned.write(&place).unwrap();
    let (ended, events) = run_with(&place, &planned, &Fake { fails_at: Some(2), ..Fake::default() }, "0/1");
    let error = format!("{:#}", ended.unwrap_err());
    assert!(error.contains("1 models could not be trained") && error.contains("model 2: the loss is NaN"), "{error}");
    assert_eq!(n_done(&events), 6);
}

#[test]
fn shards_in_folders_of_their_own_make_the_bank_of_an_unbroken_run() {
    let planned = planned(Design::Folds { folds: 5, leave: 2 }, 1);
    let shards: Vec<(tempfile::TempDir, Place)> = (0..3).map(|_| place()).collect();
    for (shard, (_, place)) in shards.iter().enumerate() {
        planned.write(place).unwrap();
        run(place, &planned, &format!("{shard}/3"));
    }
    let (dirs, places): (Vec<_>, Vec<_>) = shards.into_iter().unzip();
    let (_dir, to) = place();

    let gaps = merge(&places[..2], &to).unwrap_err();
    assert_eq!(
        gaps.downcast_ref::<Gaps>().unwrap().0,
        [(2, "missing".to_owned()), (5, "missing".to_owned()), (8, "missing".to_owned())]
    );
    assert!(
        to.read(MANIFEST_FILE).unwrap().is_none() && Bank::read(&to).unwrap_err().to_string().contains("not complete")
    );
    let merged = merge(&places, &to).unwrap();
    assert_eq!((merged.n_copied, merged.n_repeated), (3, 7));

    let (_whole_dir, whole) = place();
    planned.write(&whole).unwrap();
    run(&whole, &planned, "0/1");
    assert_eq!(seal(&whole, &planned).unwrap().digest, merged.manifest.digest);
    drop(dirs);
}

#[test]
fn two_different_models_of_one_number_are_told_and_so_are_plans() {
    let (planned_one, planned_two) = (planned(SHARE, 1), planned(SHARE, 2));
    let ((_a, one), (_b, two), (_c, to)) = (place(), place(), place());
    planned_one.write(&one).unwrap();
    planned_two.write(&two).unwrap();
    assert!(merge(&[one, two], &to).unwrap_err().to_string().contains("the plan of another bank than"));

    let ((_a, one), (_b, two), (_c, to)) = (place(), place(), place());
    for place in [&one, &two] {
        planned_one.write(place).unwrap();
        run(place, &planned_one, "0/1");
    }
    let text = String::from_utf8(two.read(&record_file(3)).unwrap().unwrap()).unwrap();
    let sha256 = |bytes: &[u8]| {
        use sha2::Digest as _;
        crate::data::hex(&sha2::Sha256::digest(bytes))
    };
    let was = sha256(&two.read(&model_file(3)).unwrap().unwrap());
    two.write(&model_file(3), b"another").unwrap();
    two.write(&record_file(3), text.replace(&was, &sha256(b"another")).as_bytes()).unwrap();
    let error = merge(&[one, two], &to).unwrap_err().to_string();
    assert!(error.starts_with("model 3 differs:"), "{error}");
}

#[test]
fn a_shard_is_every_nth_model() {
    let members = |text: &str, n| text.parse::<Shard>().unwrap().members(n).collect::<Vec<_>>();
    assert_eq!(members("1/3", 8), [1, 4, 7]);
    assert_eq!(members("0/1", 3), [0, 1, 2]);
    assert_eq!(members("5/6", 3), [0; 0]);
    // Parts of a part are parts of the whole, disjoint and complete.
    let shard: Shard = "1/3".parse().unwrap();
    let mut parts: Vec<usize> = (0..2).flat_map(|part| shard.part(part, 2).unwrap().members(20)).collect();
    parts.sort_unstable();
    assert_eq!(parts, shard.members(20).collect::<Vec<_>>());
    assert_eq!(shard.part(1, 2).unwrap().to_string(), "4/6");
    assert!(shard.part(2, 2).is_err());
    for bad in ["", "3", "3/3", "-1/3", "1/0", "a/b", "1/2/3"] {
        assert!(bad.parse::<Shard>().is_err(), "{bad}");
    }
}
