//! Where an audit's answers come from: files of predictions, and what is refused of them.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is how a test fails")]

use std::fmt::Write as _;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sordino::audit::report::{Findings, Settings};
use sordino::audit::source::predictions::{Columns, Elsewhere, PredictionError, Predictions, Side, TakenAs};
use sordino::audit::study;

/// A table of 3 classes in which members are answered more surely: 60 members, 60 non-members, 60 calibration rows.
fn table(columns: &str) -> String {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut text = format!("row,label,member,{columns}\n");
    for row in 0..180 {
        let member = [1, 0, 2][row % 3];
        let label = rng.random_range(0..3_usize);
        let shown = if member == 1 || rng.random_bool(0.7) { label } else { (label + 1) % 3 };
        let margin = if member == 1 { rng.random_range(3.0..6.0) } else { rng.random_range(0.5..4.0) };
        let logits: Vec<f64> =
            (0..3).map(|class| if class == shown { margin } else { rng.random_range(0.0..0.4) }).collect();
        let total: f64 = logits.iter().map(|z| z.exp()).sum();
        let words =
            |value: &dyn Fn(f64) -> f64| logits.iter().map(|&z| value(z).to_string()).collect::<Vec<_>>().join(",");
        let values = match columns.split('_').next().unwrap() {
            "logit" => words(&|z| z),
            "p" => words(&|z| z.exp() / total),
            "log" => words(&|z| z - total.ln()),
            _ => shown.to_string(),
        };
        writeln!(text, "{},{label},{member},{values}", 1_000 + row).unwrap();
    }
    text
}

fn read(text: &str) -> Result<Predictions, PredictionError> {
    Predictions::new(Columns::parse_csv(text.as_bytes())?, &Elsewhere::default())
}

fn findings(text: &str, taken_as: TakenAs) -> Findings {
    let (target, systems, skipped) = read(text).unwrap().study(taken_as).unwrap();
    let settings = Settings { n_permutations: 50, n_resamples: 100, overhead_passes: 1, ..Settings::default() };
    study::run(&target, &systems, skipped, &settings).unwrap()
}

const LOGITS: &str = "logit_0,logit_1,logit_2";
const PROBABILITIES: &str = "p_0,p_1,p_2";

#[test]
fn logits_probabilities_and_their_logarithms_tell_the_same() {
    let auc = |columns: &str| {
        let found = findings(&table(columns), TakenAs::Served);
        let names: Vec<&str> = found.systems.iter().map(|system| system.name.as_str()).collect();
        assert_eq!(names, ["as answered", "label-only"]);
        assert_eq!((found.n_members, found.n_non_members), (60, 60));
        assert!(!found.reference.is_undefended && found.not_allowed.is_empty());
        assert!(found.systems[0].utility.label_agreement.value.is_none(), "there is no undefended model to agree with");
        // The file has calibration rows: what is lacking is something to scale.
        for reason in [&found.temperature.reason, &found.systems[0].utility.nll_minus_rival.reason] {
            assert!(reason.as_ref().unwrap().contains("no scores of the undefended model"), "{reason:?}");
        }
        found.systems[0].attacks[0].auc.value
    };
    let [logits, probabilities, logs] = [LOGITS, PROBABILITIES, "log_p_0,log_p_1,log_p_2"].map(auc);
    assert!(logits > 0.8, "{logits}");
    assert!((logits - probabilities).abs() < 1e-12 && (logits - logs).abs() < 1e-12);
}

#[test]
fn undefended_scores_of_a_file_meet_the_systems_of_an_audit() {
    let found = findings(&table(LOGITS), TakenAs::Undefended);
    let names: Vec<&str> = found.systems.iter().map(|system| system.name.as_str()).collect();
    assert_eq!(names, ["undefended", "temperature-scaled", "label-only"]);
    assert!(found.reference.is_undefended && found.allows.logits);
    assert!(found.skipped.iter().all(|one| one.reason.contains("centroid")), "{:?}", found.skipped);
}

#[test]
fn labels_alone_allow_the_gap_attack_and_say_what_they_do_not() {
    let found = findings(&table("predicted"), TakenAs::Served);
    assert!(!found.allows.scores);
    // Whether the label is right, and what can be learned of the two labels: no attack that reads a score.
    let names: Vec<String> = found.systems[0].attacks.iter().map(|attack| format!("{:?}", attack.attack)).collect();
    assert!(names.iter().any(|name| name.contains("\"correctness\"")), "{names:?}");
    assert!(names.iter().all(|name| !name.contains("loss") && !name.contains("entropy")), "{names:?}");
    assert!(found.not_allowed.iter().any(|one| one.lacks == "a score for each class"), "{:?}", found.not_allowed);
    assert!(read(&table("predicted")).unwrap().study(TakenAs::Undefended).is_err());
}

#[test]
fn one_non_member_at_the_floor_of_the_nll_is_told_in_the_singular() {
    let text = table(PROBABILITIES);
    // The second row is a non-member: whatever its label, it gets nothing.
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let label: usize = lines[2].split(',').nth(1).unwrap().parse().unwrap();
    let answer: Vec<&str> = (0..3).map(|class| if class == (label + 1) % 3 { "1" } else { "0" }).collect();
    lines[2] = format!("1001,{label},0,{}", answer.join(","));
    let (target, systems, _) = read(&lines.join("\n")).unwrap().study(TakenAs::Served).unwrap();
    let flags: Vec<String> = (1..=8)
        .flat_map(|seed| {
            let quick = Settings { seed, n_permutations: 10, n_resamples: 10, learned: false, ..Settings::default() };
            study::run(&target, &systems, Vec::new(), &quick).unwrap().systems[0].flags.clone()
        })
        .filter(|flag| flag.contains("floored"))
        .collect();
    assert!(
        !flags.is_empty() && flags.iter().all(|flag| flag.starts_with("1 non-member has less than 1e-12")),
        "{flags:?}"
    );
}

#[test]
fn labels_and_sides_may_come_from_elsewhere() {
    // Every record but the third is named.
    let text = format!("predicted\n{}", "0\n1\n".repeat(17));
    let labels: Vec<u32> = (0..34).map(|record| record / 3 % 2).collect();
    let named: Vec<u64> = (0..34).filter(|&record| record != 2).collect();
    let side = named.iter().map(|&record| (record, if record < 17 { Side::Member } else { Side::NonMember }));
    let elsewhere = Elsewhere { labels: Some(&labels), sides: Some(side.collect()) };
    let columns = || Columns::parse_csv(text.as_bytes()).unwrap();
    let (target, ..) = Predictions::new(columns(), &elsewhere).unwrap().study(TakenAs::Served).unwrap();
    let rows: Vec<usize> = named.iter().map(|&record| record as usize).collect();
    assert_eq!((target.n_members(), target.dataset_rows()), (16, &rows[..]));
    assert_eq!(target.labels(), rows.iter().map(|&row| labels[row]).collect::<Vec<_>>());
    let short = Elsewhere { labels: Some(&labels[..3]), ..elsewhere };
    let refused = Predictions::new(columns(), &short).unwrap_err().to_string();
    assert!(refused.contains("expected a record below 3"), "{refused}");
}

#[test]
fn a_file_that_contradicts_what_is_known_is_refused_by_number_and_first_record() {
    let text = "row,label,member,predicted\n5,0,1,0\n6,1,1,1\n7,0,0,0\n8,1,0,1\n9,1,3,1\n";
    let refused = |labels: Option<&[u32]>, sides: &[(u64, Side)]| {
        let sides = (!sides.is_empty()).then(|| sides.iter().copied().collect());
        let columns = Columns::parse_csv(text.as_bytes()).unwrap();
        Predictions::new(columns, &Elsewhere { labels, sides }).map_err(|error| error.to_string()).map(|_| ())
    };
    let (member, other) = (Side::Member, Side::NonMember);
    let as_told = [(5, member), (6, member), (7, other), (8, other)];
    assert_eq!(refused(Some(&[9, 9, 9, 9, 9, 0, 1, 0, 1, 1]), &as_told), Ok(()));
    // A row that the column leaves out may be named, a part of the file may be judged, and a calibration row is none
    // that was trained on.
    assert_eq!(refused(None, &[(5, member), (9, member), (7, Side::Calibration), (8, other)]), Ok(()));
    let absent = refused(None, &[&as_told[..], &[(40, member), (31, member)]].concat()).unwrap_err();
    assert_eq!(absent, "2 of the members that were named are not in the file: the first is record 31");
    let turned = refused(None, &[(5, other), (6, member), (7, member), (8, other)]).unwrap_err();
    assert!(turned.starts_with("2 rows contradict in column \"member\"") && turned.ends_with("record 5"), "{turned}");
    let labels = refused(Some(&[9, 9, 9, 9, 9, 0, 1, 1, 0, 1]), &[]).unwrap_err();
    assert!(labels.starts_with("2 rows contradict in column \"label\"") && labels.ends_with("record 7"), "{labels}");
}

#[test]
fn what_does_not_fit_is_refused_with_its_place() {
    let refused = |text: &str| match read(text).and_then(|read| read.study(TakenAs::Served).map(|_| ())) {
        Ok(()) => panic!("{text}"),
        Err(error) => error.to_string(),
    };
    let says = |text: &str, words: &str| {
        let said = refused(text);
        assert!(said.contains(words), "{text:?}: {said}");
    };
    let head = "label,member,p_0,p_1\n";
    let rows = "0,1,0.9,0.1\n1,1,0.2,0.8\n0,0,0.6,0.4\n";
    says(&format!("{head}{rows}1,0,NaN,0.4\n"), "row 3 (from 0): expected");
    says(&format!("label,member,logit_0,logit_1\n{rows}1,0,1,inf\n"), "expected a finite score");
    says(&format!("{head}{rows}1,0,0.6,0.6\n"), "row 3 (from 0): expected probabilities that sum to 1");
    says(&format!("{head}{rows}2,0,0.6,0.4\n"), "expected a label below 2, got 2");
    says(&format!("{head}{rows}0.5,0,0.6,0.4\n"), "expected a label, a whole number");
    says(&format!("{head}{rows}-1,0,0.6,0.4\n"), "expected a label, a whole number");
    says(&format!("{head}{rows}1,7,0.6,0.4\n"), "expected 0, 1, 2 or 3 as member");
    says(&format!("{head}{rows}"), "2 members and 1 non-member are too few");
    says("label,member,p_0,p_1\n", "0 members and 0 non-members are too few");
    says(&format!("{head}{rows}1,0,0.6\n"), "row 3 (from 0): expected comma-separated");
    says(&format!("{head}{rows}1,0,secret,0.4\n"), "a number in column \"p_0\", got other text");
    says(&format!("{head}{}", "0,1,0.9,0.1\n0,0,0.6,0.4\n".repeat(15)), "all 30 rows are of class 0");
    says("label,member,p_0,p_2\n", "a column for each class from 0, got none for class 1");
    says("label,member,p_0,logit_1\n", "scores of one kind");
    says("label,member,p_0\n", "scores of two classes at least");
    says("label,member,p_0,p_1,age\n", "got \"age\"");
    says("label,p_0,p_1\n1,0.5,0.5\n", "a column \"member\", or a split");
    says("member,p_0,p_1\n1,0.5,0.5\n", "a column \"label\", or a data set");
    says("label,member\n1,1\n", "scores, or a column \"predicted\"");
    for vast in ["1e18", "inf", "4294967296", "-1", "0.5", "NaN"] {
        says(
            &format!("label,member,predicted\n0,1,1\n1,1,{vast}\n0,0,0\n1,0,1\n"),
            "expected a predicted label, a whole number",
        );
    }
    let many = format!("label,member,predicted\n{}", "1000000,1,0\n0,0,1\n".repeat(200));
    says(&many, "671088 classes at most for 400 rows");
    let with_rows = "row,label,member,p_0,p_1\n7,0,1,0.9,0.1\n8,1,1,0.2,0.8\n9,0,0,0.6,0.4\n";
    says(&format!("{with_rows}8,1,0,0.6,0.4\n"), "record 8 is a member and a non-member at once");
    says(&format!("{with_rows}9,1,0,0.6,0.4\n"), "record 9 is there twice");
}

/// The numbers of a table of predictions by column.
fn columns_of(text: &str) -> Vec<(String, Vec<f64>)> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    let rows: Vec<Vec<f64>> = lines.map(|line| line.split(',').map(|field| field.parse().unwrap()).collect()).collect();
    let column = |place: usize| rows.iter().map(|row| row[place]).collect();
    names.iter().enumerate().map(|(place, name)| ((*name).to_owned(), column(place))).collect()
}

fn npy(shape: &str, values: &[f64]) -> Vec<u8> {
    let line = format!("{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((line.len() as u16).to_le_bytes());
    bytes.extend(line.as_bytes());
    values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
    bytes
}

fn write_npz(path: &std::path::Path, columns: &[(String, Vec<f64>)]) {
    use std::io::Write as _;

    let mut archive = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    let mut add = |name: &str, bytes: &[u8]| {
        let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
        archive.start_file(format!("{name}.npy"), options).unwrap();
        archive.write_all(bytes).unwrap();
    };
    let (scores, others): (Vec<_>, Vec<_>) = columns.iter().partition(|(name, _)| name.starts_with("logit_"));
    let n_rows = scores[0].1.len();
    let rows: Vec<f64> = (0..n_rows).flat_map(|row| scores.iter().map(move |(_, column)| column[row])).collect();
    add("logits", &npy(&format!("({n_rows}, {})", scores.len()), &rows));
    for (name, column) in others {
        add(name, &npy(&format!("({n_rows},)"), column));
    }
    archive.finish().unwrap();
}

fn write_parquet(path: &std::path::Path, columns: &[(String, Vec<f64>)]) {
    use parquet::data_type::DoubleType;
    use parquet::file::writer::SerializedFileWriter;

    let fields: String = columns.iter().map(|(name, _)| format!("required double {name}; ")).collect();
    let schema = parquet::schema::parser::parse_message_type(&format!("message t {{ {fields} }}")).unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = SerializedFileWriter::new(file, std::sync::Arc::new(schema), std::sync::Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    for (_, values) in columns {
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<DoubleType>().write_batch(values, None, None).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
}

#[test]
fn one_table_tells_the_same_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let text = table(LOGITS);
    let columns = columns_of(&text);
    let path = |ending: &str| dir.path().join(format!("predictions.{ending}"));
    std::fs::write(path("csv"), &text).unwrap();
    write_npz(&path("npz"), &columns);
    write_parquet(&path("parquet"), &columns);
    let read = |ending: &str| {
        let found = Predictions::new(Columns::read(&path(ending)).unwrap(), &Elsewhere::default()).unwrap();
        let (target, systems, _) = found.study(TakenAs::Undefended).unwrap();
        let answers = systems[0].answer(&target, &target.logits(), None).unwrap().unwrap();
        (target.dataset_rows().to_vec(), target.labels().to_vec(), answers.probabilities)
    };
    let expected = read("csv");
    assert_eq!(read("npz"), expected);
    assert_eq!(read("parquet"), expected);
}

#[test]
fn damaged_archives_and_tables_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        Columns::read(&path).err().unwrap().to_string()
    };
    assert!(refused("p.npz", b"PK no archive").contains("an archive of arrays"));
    assert!(refused("p.parquet", b"PAR1").contains("a Parquet table"));
    assert!(refused("p.txt", b"").contains(".csv, .npz or .parquet"));
    let path = dir.path().join("q.npz");
    write_npz(&path, &[("logit_0".to_owned(), vec![1.0; 4]), ("label".to_owned(), vec![1.0; 3])]);
    let uneven = Columns::read(&path).err().unwrap().to_string();
    assert!(uneven.contains("label.npy: expected 4 rows"), "{uneven}");
}

mod endpoint {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::path::{Path, PathBuf};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use sordino::audit::invert::Inversion;
    use sordino::audit::source::Querier as _;
    use sordino::audit::source::QueryError;
    use sordino::audit::source::endpoint::{Asked, EndpointError, Manners, Remote};
    use sordino::audit::source::sides::Sides;
    use sordino::client::endpoint::{Endpoint, Reach};
    use sordino::client::infer::RemoteModel;
    use sordino::data::{DataSource, Dataset};
    use sordino::defence::ScoreKind;

    /// A server of two classes that answers so many calls and then closes every connection unanswered.
    struct Fake {
        address: std::net::SocketAddr,
        answered: Arc<AtomicUsize>,
    }

    const METADATA: &str = r#"{"name":"m","platform":"fake","inputs":[{"name":"x","datatype":"FP32","shape":[-1,2]}],
        "outputs":[{"name":"probabilities","datatype":"FP32","shape":[-1,2]},{"name":"class","datatype":"INT64","shape":[-1]},
                   {"name":"logits","datatype":"FP32","shape":[-1,2]}]}"#;

    impl Fake {
        fn start(n_calls: usize) -> Self {
            Self::telling(METADATA, n_calls)
        }

        fn telling(metadata: &'static str, n_calls: usize) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let answered = Arc::new(AtomicUsize::new(0));
            let count = Arc::clone(&answered);
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    Self::serve(stream, metadata, n_calls, &count);
                }
            });
            Self { address, answered }
        }

        fn serve(mut stream: TcpStream, metadata: &str, n_calls: usize, count: &AtomicUsize) {
            while let Some((path, body)) = Self::request(&mut stream) {
                let reply = if path.ends_with("/infer") {
                    if count.load(Ordering::Relaxed) >= n_calls {
                        return;
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                    Self::infer(&body)
                } else {
                    metadata.to_owned()
                };
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", reply.len());
                if stream.write_all((head + &reply).as_bytes()).is_err() {
                    return;
                }
            }
        }

        fn request(stream: &mut TcpStream) -> Option<(String, String)> {
            let (mut bytes, mut one) = (Vec::new(), [0_u8; 1]);
            while !bytes.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut one).ok()?;
                bytes.push(one[0]);
            }
            let head = String::from_utf8(bytes).ok()?.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
            let mut body = vec![0; length];
            stream.read_exact(&mut body).ok()?;
            Some((head.split(' ').nth(1)?.to_owned(), String::from_utf8(body).ok()?))
        }

        /// The first value of a row is its probability of class 0.
        fn infer(body: &str) -> String {
            let call: serde_json::Value = serde_json::from_str(body).unwrap();
            let values: Vec<f64> =
                call["inputs"][0]["data"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
            assert!(call["id"].is_string());
            let output = call["outputs"][0]["name"].as_str().unwrap();
            let of = |row: &[f64]| match output {
                "class" => vec![f64::from(u8::from(row[0] < 0.5))],
                "logits" => vec![row[0] * 8.0, 1.0],
                _ => vec![row[0], 1.0 - row[0]],
            };
            let data: Vec<f64> = values.chunks(2).flat_map(of).collect();
            serde_json::json!({ "model_name": "m", "outputs": [{ "name": output, "data": data }] }).to_string()
        }
    }

    /// 40 rows: the first 20 members, answered surely and right.
    fn dataset(dir: &Path) -> Dataset {
        let row = |n: usize| {
            let label = n % 2;
            let sure = if n < 20 { 0.99 - 0.001 * n as f64 } else { 0.8 - 0.01 * n as f64 };
            format!("{label},{},{n}\n", if label == 0 { sure } else { 1.0 - sure })
        };
        let file = dir.join("rows.csv");
        std::fs::write(&file, (0..40).map(row).collect::<String>()).unwrap();
        Dataset::load(&DataSource::Csv(file.into())).unwrap()
    }

    fn sides() -> Sides {
        Sides::new((0..20).collect(), (20..40).collect(), Vec::new()).unwrap()
    }

    fn manners(answers: Option<PathBuf>) -> Manners {
        Manners {
            batch_rows: 8,
            query_budget: None,
            reserved: 0,
            rate: None,
            input: None,
            output: None,
            kind: None,
            answers,
        }
    }

    fn remote(fake: &Fake, manners: Manners) -> Result<Remote, EndpointError> {
        let endpoint = Endpoint::parse(&format!("http://{}", fake.address), Reach::Loopback)?;
        Remote::connect(RemoteModel::new(endpoint, Some("m"), Duration::from_secs(5))?, manners)
    }

    fn ask(fake: &Fake, dataset: &Dataset, manners: Manners) -> Result<Asked, EndpointError> {
        remote(fake, manners)?.ask_all(dataset, &sides(), Inversion::as_is(), &mut |_| {})
    }

    #[test]
    fn an_endpoint_is_asked_once_for_each_row() {
        let dir = tempfile::tempdir().unwrap();
        let (dataset, fake) = (dataset(dir.path()), Fake::start(usize::MAX));
        let asked = ask(&fake, &dataset, manners(None)).unwrap();
        assert_eq!((asked.target.n_rows(), asked.target.n_members(), asked.n_kept), (40, 20, 0));
        assert_eq!(fake.answered.load(Ordering::Relaxed), 5);
        assert!(asked.target.allows().scores && asked.target.allows().queries && !asked.target.allows().logits);
        let names: Vec<&str> = asked.systems.iter().map(|system| system.name.as_str()).collect();
        assert_eq!(names, ["as answered", "label-only"]);
    }

    #[test]
    fn an_audit_goes_on_where_the_endpoint_went_away_and_loses_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        let dataset = dataset(dir.path());
        let file = dir.path().join("report.answers");
        let dying = Fake::start(3);
        let gone = ask(&dying, &dataset, manners(Some(file.clone()))).err().unwrap();
        assert!(matches!(gone, EndpointError::Gone { n_answered: 24, n_rows: 40, .. }), "{gone}");
        assert!(gone.to_string().contains("the same command goes on from there"), "{gone}");
        let back = Fake::start(usize::MAX);
        let asked = ask(&back, &dataset, manners(Some(file.clone()))).unwrap();
        assert_eq!((asked.n_kept, asked.target.n_rows()), (24, 40));
        assert!(asked.doubts.is_empty());
        // Two batches of what was missing, and one row asked again to see that it is the same model.
        assert_eq!(back.answered.load(Ordering::Relaxed), 3);
        let all = Fake::start(0);
        assert_eq!(ask(&all, &dataset, manners(Some(file))).unwrap().n_kept, 40);
    }

    #[test]
    fn a_budget_is_told_before_a_row_is_asked_and_holds_for_questions() {
        let dir = tempfile::tempdir().unwrap();
        let (dataset, fake) = (dataset(dir.path()), Fake::start(usize::MAX));
        let poor = Manners { query_budget: Some(39), ..manners(None) };
        let refused = ask(&fake, &dataset, poor).err().unwrap();
        assert!(matches!(refused, EndpointError::Budget { wanted: 40, budget: 39 }), "{refused}");
        assert_eq!(fake.answered.load(Ordering::Relaxed), 0);
        let mut rich = remote(&fake, Manners { query_budget: Some(42), ..manners(None) }).unwrap();
        rich.ask_all(&dataset, &sides(), Inversion::as_is(), &mut |_| {}).unwrap();
        assert_eq!(rich.ask(&dataset.batch(&[0, 1])).unwrap().predicted, [0, 1]);
        assert_eq!((rich.n_asked(), rich.n_left()), (42, Some(0)));
        assert!(matches!(rich.ask(&dataset.batch(&[0])), Err(QueryError::Budget { wanted: 1, left: 0 })));
        // What further questions will want is told before a row is asked, too.
        let (fake, later) =
            (Fake::start(usize::MAX), |budget| Manners { query_budget: Some(budget), reserved: 7, ..manners(None) });
        let refused = ask(&fake, &dataset, later(46)).err().unwrap();
        assert!(matches!(refused, EndpointError::Budget { wanted: 47, budget: 46 }), "{refused}");
        assert_eq!(fake.answered.load(Ordering::Relaxed), 0);
        assert!(ask(&fake, &dataset, later(47)).is_ok());
    }

    #[test]
    fn further_questions_lose_no_answer_either_where_the_endpoint_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let dataset = dataset(dir.path());
        let file = dir.path().join("report.answers");
        let kept = || manners(Some(file.clone()));
        let rows: Vec<usize> = (0..20).collect();
        let changed = dataset.batch(&rows).mapv(|value| value * 0.5);
        // Five calls for the rows, two of three for further questions.
        let dying = Fake::start(7);
        let mut asked = remote(&dying, kept()).unwrap();
        asked.ask_all(&dataset, &sides(), Inversion::as_is(), &mut |_| {}).unwrap();
        let gone = asked.ask(&changed).err().unwrap().to_string();
        assert!(gone.contains("are kept in") && gone.contains("goes on from there"), "{gone}");
        drop(asked);
        let back = Fake::start(usize::MAX);
        let mut asked = remote(&back, kept()).unwrap();
        let found = asked.ask_all(&dataset, &sides(), Inversion::as_is(), &mut |_| {}).unwrap();
        assert_eq!((found.n_kept, back.answered.load(Ordering::Relaxed)), (40, 0));
        let first = asked.ask(&changed).unwrap();
        assert_eq!((back.answered.load(Ordering::Relaxed), asked.n_asked()), (1, 4), "the sixteen are there");
        // One connection at a time.
        let alone = remote(&Fake::start(3), manners(None)).unwrap().ask(&changed).unwrap();
        assert_eq!(first.probabilities, alone.probabilities);
        // The same question again is another question: its answer may be drawn anew.
        asked.ask(&changed).unwrap();
        assert_eq!(asked.n_asked(), 24);
        drop(asked);
        let mut asked = remote(&Fake::start(0), kept()).unwrap();
        asked.ask_all(&dataset, &sides(), Inversion::as_is(), &mut |_| {}).unwrap();
        assert!(asked.ask(&changed).is_ok() && asked.ask(&changed).is_ok(), "both are kept");
        assert!(asked.ask(&changed).is_err(), "and no third");
    }

    #[test]
    fn further_questions_come_in_batches_and_every_answer_has_all_classes() {
        let dir = tempfile::tempdir().unwrap();
        let (dataset, fake) = (dataset(dir.path()), Fake::start(usize::MAX));
        let of_labels = Manners { output: Some("class".to_owned()), ..manners(None) };
        let mut asked = remote(&fake, of_labels).unwrap();
        asked.ask_all(&dataset, &sides(), Inversion::as_is(), &mut |_| {}).unwrap();
        let before = fake.answered.load(Ordering::Relaxed);
        let rows: Vec<usize> = (0..20).collect();
        let answers = asked.ask(&dataset.batch(&rows)).unwrap();
        assert_eq!(answers.predicted, (0..20).map(|row| row % 2).collect::<Vec<u32>>());
        // Eight rows a request, as the rows themselves were asked.
        assert_eq!(fake.answered.load(Ordering::Relaxed) - before, 3);
        // Rows of class 0 alone: the label says nothing of how many classes there are.
        assert_eq!(asked.ask(&dataset.batch(&[0, 2])).unwrap().probabilities.dim(), (2, 2));
    }

    #[test]
    fn what_the_numbers_are_is_never_guessed() {
        let dir = tempfile::tempdir().unwrap();
        let (dataset, fake) = (dataset(dir.path()), Fake::start(usize::MAX));
        let of = |output: &str, kind| Manners { output: Some(output.to_owned()), kind, ..manners(None) };
        let refused = ask(&fake, &dataset, of("logits", None)).err().unwrap().to_string();
        assert!(refused.contains("--output-kind"), "{refused}");
        assert!(ask(&fake, &dataset, of("logits", Some(ScoreKind::Logits))).is_ok());
        let labels = ask(&fake, &dataset, of("class", None)).unwrap();
        assert!(!labels.target.allows().scores);
        let refused = ask(&fake, &dataset, of("none", None)).err().unwrap().to_string();
        assert!(refused.contains("an output named \"none\"") && refused.contains("\"probabilities\""), "{refused}");
    }

    /// KServe's server knows nothing of a model whose class does not tell, writes null, and fails without an id.
    #[test]
    fn a_model_that_tells_nothing_of_itself_is_asked_by_the_names_that_are_given() {
        let dir = tempfile::tempdir().unwrap();
        let dataset = dataset(dir.path());
        let told = ask(&Fake::start(usize::MAX), &dataset, manners(None)).unwrap();
        for metadata in
            [r#"{"name":"m","platform":"","inputs":[],"outputs":[]}"#, r#"{"name":"m","platform":null,"inputs":null}"#]
        {
            let fake = Fake::telling(metadata, usize::MAX);
            let of = |input: Option<&str>, output: Option<&str>| {
                let named = |name: Option<&str>| name.map(str::to_owned);
                ask(&fake, &dataset, Manners { input: named(input), output: named(output), ..manners(None) })
            };
            let refused = of(None, Some("probabilities")).err().unwrap().to_string();
            assert!(refused.contains("--input and --output"), "{refused}");
            assert!(of(Some("x"), None).is_err());
            let asked = of(Some("x"), Some("probabilities")).unwrap();
            assert_eq!((asked.target.n_rows(), asked.n_kept), (told.target.n_rows(), 0));
        }
        let other = Manners { input: Some("y".to_owned()), ..manners(None) };
        let refused = ask(&Fake::start(usize::MAX), &dataset, other).err().unwrap().to_string();
        assert!(refused.contains("an input named \"y\"") && refused.contains("the input \"x\""), "{refused}");
    }

    #[test]
    fn rows_that_do_not_fit_the_model_are_refused_before_a_row_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("wide.csv");
        std::fs::write(&file, "0,1,2,3\n1,1,2,3\n".repeat(20)).unwrap();
        let wide = Dataset::load(&DataSource::Csv(file.into())).unwrap();
        let fake = Fake::start(usize::MAX);
        let refused = ask(&fake, &wide, manners(None)).err().unwrap().to_string();
        assert!(
            refused.contains("rows for the model's input \"x\"") && refused.contains("rows of shape [3]"),
            "{refused}"
        );
        assert_eq!(fake.answered.load(Ordering::Relaxed), 0);
    }
}
