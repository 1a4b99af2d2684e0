//! The audit from the command line to the report: what an attacker brings, what is refused, what is written.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is how a test fails")]

use std::fmt::Write as _;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

use crate::audit_workshop::{
    QUICK, Served, TARGET, adversaries, attack_names, report, system, value, workshop, write_images,
};
use crate::command_support::{done, refused};

#[test]
fn adversary_two_learns_on_a_shadow_of_other_data_behind_the_same_defence() {
    let words = format!(
        "--model t.onnx --centroids t.safetensors {TARGET} --transfer-shadow o.onnx,o.split.json,csv:o.csv --html two.html"
    );
    let found = report("two", &words);
    let undefended = adversaries(&found, "undefended", 2);
    assert_eq!(undefended.len(), 2, "as in the paper's code and as in the paper");
    for one in undefended {
        assert!(one["counts"] == true && value(&one["auc"]) > 0.65, "{one}");
        // Its own rule, of no row of the target: some non-members are called, and more members.
        let (tpr, fpr) = (value(&one["tpr"]), value(&one["fpr"]));
        assert!(tpr > fpr + 0.2 && one["rule"].as_str().unwrap().contains("odds"), "{one}");
        let precision = value(&one["precision"]["value"]);
        assert!((precision - tpr / (tpr + fpr)).abs() < 1e-9, "as many rows on both sides");
    }
    // Five systems and more, each with the shadow behind its own defence: nothing had to be left undefended.
    assert_eq!(adversaries(&found, "reweight w=0.1", 2).len(), 2);
    assert!(found["origin"]["doubts"].as_array().unwrap().is_empty(), "{}", found["origin"]["doubts"]);
    assert!(!found.to_string().contains("undefended shadows"));
    let told = found["not_tried"].to_string();
    assert!(!told.contains("adversary 2") && told.contains("adversary 1") && told.contains("adversary 3"), "{told}");
    let page = std::fs::read_to_string(workshop().join("two.html")).unwrap();
    assert!(page.contains("adversaries</h2>") && page.contains("ML-Leaks adversary 2, network on top 3"));
}

#[test]
fn adversary_two_reads_a_file_of_answers_too_and_says_that_its_shadow_stood_undefended() {
    let dir = workshop();
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let mut text = String::from("label,member,p_0,p_1\n");
    for row in 0..240 {
        let top: f64 = rng.random_range(0.6..0.8) + if row % 2 == 0 { 0.19 } else { 0.0 };
        writeln!(text, "{},{},{top:.6},{:.6}", usize::from(row % 7 == 0), row % 2, 1.0 - top).unwrap();
    }
    std::fs::write(dir.join("answers.csv"), text.replace(",0,", ",x,").replace(",1,", ",0,").replace(",x,", ",1,"))
        .unwrap();
    let found = report("file", "--predictions answers.csv --transfer-shadow o.onnx,o.split.json,csv:o.csv");
    let adversary = adversaries(&found, "as answered", 2);
    // Two classes here, three there: what is learned does not speak of classes.
    assert!(adversary[0]["attack"]["name"].as_str().unwrap().ends_with("(undefended shadows)"), "{}", adversary[0]);
    assert!(adversary.iter().all(|one| one["counts"] == true && value(&one["auc"]) > 0.9), "{adversary:?}");
    assert!(found["origin"]["doubts"].to_string().contains("nobody said what defends these answers"));
    let labels = "0,1,0\n1,1,1\n0,0,1\n1,0,1\n".repeat(8);
    std::fs::write(dir.join("labels.csv"), format!("label,member,predicted\n{labels}")).unwrap();
    let words = "audit --predictions labels.csv --transfer-shadow o.onnx,o.split.json,csv:o.csv";
    assert!(refused(dir, words).contains("these answers are labels alone"));
}

#[test]
fn adversary_three_holds_the_largest_entry_against_random_points_within_the_budget() {
    let dir = workshop();
    let words = format!("--model t.onnx {TARGET} --random-points 500 --html three.html");
    let found = report("three", &words);
    let [undefended] = adversaries(&found, "undefended", 3)[..] else { panic!("one attack") };
    let confidence = system(&found, "undefended")["attacks"].as_array().unwrap();
    let confidence = confidence.iter().find(|one| one["attack"]["name"] == "confidence").unwrap();
    assert_eq!(undefended["auc"], confidence["auc"], "the score is the largest entry");
    assert_ne!(undefended["tpr"], confidence["calls"]["recall_members"], "the rule is its own");
    assert!(undefended["rule"].as_str().unwrap().ends_with("which 10 % of 500 random points pass"), "{undefended}");
    // A label says nothing by its largest entry: no row passes 1, and no point.
    let [floor] = adversaries(&found, "label-only", 3)[..] else { panic!("one attack") };
    assert!(value(&floor["tpr"]) == 0.0 && floor["precision"]["reason"] == "nobody is called a member", "{floor}");
    assert!(floor["rule"].as_str().unwrap().ends_with("above 1, which 0 % of 500 random points pass"), "{floor}");
    assert!(!found["not_tried"].to_string().contains("adversary 3"));
    let page = std::fs::read_to_string(dir.join("three.html")).unwrap();
    assert!(page.contains("largest entry against random points"));
    let poor = format!("audit --model t.onnx {TARGET} --random-points 500 --query-budget 499");
    assert!(refused(dir, &poor).contains("500 further queries are wanted, it holds 499 more"));
    let again = report("three_again", &words);
    assert_eq!(again["findings"]["ml_leaks"], found["findings"]["ml_leaks"], "the points are drawn from the seed");
}

#[test]
fn shadows_of_an_endpoint_stand_behind_its_defence_where_that_is_known_and_the_report_says_where_it_is_not() {
    let dir = workshop();
    let served = Served::start(dir);
    let asked = format!("--endpoint {} {TARGET} --shadows bank", served.1);
    let unknown = report("unknown", &asked);
    let names = attack_names(system(&unknown, "as answered"));
    assert!(names.contains(&"LiRA online, fixed variance (undefended shadows)"), "{names:?}");
    assert!(names.contains(&"ML-Leaks adversary 1, network on top 3 (undefended shadows)"), "{names:?}");
    assert!(!names.contains(&"LiRA online, fixed variance"));
    assert!(unknown["origin"]["doubts"].to_string().contains("nobody said what defends these answers"));
    // The floor is known whatever the defence is: a label is a label, and the attack counts there if it does above.
    let floor = attack_names(system(&unknown, "label-only"));
    assert!(floor.contains(&"LiRA online, fixed variance"), "{floor:?}");
    let counts = |report: &Value, of: &str, attack: &str| {
        let attacks = system(report, of)["attacks"].as_array().unwrap();
        attacks.iter().find(|one| one["attack"]["name"] == attack).unwrap()["counts"].clone()
    };
    let above = counts(&unknown, "as answered", "LiRA online, fixed variance (undefended shadows)");
    assert_eq!(counts(&unknown, "label-only", "LiRA online, fixed variance"), above);

    // Who knows the defence and not its centroids fits it to each shadow's own members, and undoes nothing.
    let known = report("known", &format!("{asked} --defence served.toml"));
    let names = attack_names(system(&known, "as answered"));
    assert!(
        names.contains(&"LiRA online, fixed variance") && !known.to_string().contains("undefended shadows)"),
        "{names:?}"
    );
    assert!(known["origin"]["doubts"].as_array().unwrap().is_empty());
    assert!(!names.iter().any(|name| name.contains("undone")));
    // With the centroids the defence is undone, too, and held against undefended shadows: there the leak is.
    let undone = report("undone", &format!("{asked} --defence served.toml --centroids t.safetensors"));
    let auc = |report: &Value, attack: &str| {
        let attacks = system(report, "as answered")["attacks"].as_array().unwrap();
        value(&attacks.iter().find(|one| one["attack"]["name"] == attack).unwrap()["auc"])
    };
    let (plain, read_back) =
        (auc(&known, "LiRA online, fixed variance"), auc(&undone, "LiRA online, fixed variance on undone answers"));
    assert!(read_back > 0.8 && read_back > plain, "{read_back} {plain}");
    assert!(!undone["not_tried"].to_string().contains("LiRA"));

    let alone = refused(dir, &format!("audit --endpoint {} {TARGET} --defence served.toml", served.1));
    assert!(alone.contains("needs its --centroids too"), "{alone}");
    let bare = refused(dir, &format!("audit --endpoint {} {TARGET} --centroids t.safetensors", served.1));
    assert!(bare.contains("give the --defence"), "{bare}");
    let budget =
        refused(dir, &format!("audit --endpoint {} {TARGET} --random-points 100 --query-budget 399", served.1));
    assert!(budget.contains("the audit needs 400 more queries, the budget is 399"), "{budget}");
    let forms = refused(dir, &format!("audit {asked} --augment 2"));
    assert!(forms.contains("--augment: expected images, got rows of shape [20]"), "{forms}");
}

#[test]
fn an_endpoints_labels_are_held_against_the_labels_of_random_points() {
    let dir = workshop();
    let served = Served::start(dir);
    let found = report("asked", &format!("--endpoint {} {TARGET} --random-points 500 --scores-only", served.1));
    let [answered] = adversaries(&found, "as answered", 3)[..] else { panic!("one attack") };
    assert!(answered["rule"].as_str().unwrap().ends_with("which 10 % of 500 random points pass"), "{answered}");
    assert!(value(&answered["tpr"]) > 0.0, "{answered}");
    // A label says nothing by its largest entry: no row passes 1, and no point.
    let [floor] = adversaries(&found, "label-only", 3)[..] else { panic!("one attack") };
    assert!(floor["rule"].as_str().unwrap().ends_with("above 1, which 0 % of 500 random points pass"), "{floor}");
    assert!(value(&floor["tpr"]) == 0.0 && value(&floor["fpr"]) == 0.0 && value(&floor["auc"]) == 0.5, "{floor}");
    assert_eq!(floor["precision"]["reason"], "nobody is called a member");
    // Every point is asked once, for both.
    assert_eq!(found["origin"]["source"]["n_asked"], 300 + 500);
}

#[test]
fn the_table_of_records_holds_each_ones_risk_by_which_the_worst_are_told() {
    let dir = workshop();
    let found =
        report("risk", &format!("--model t.onnx --centroids t.safetensors {TARGET} --shadows bank --csv risk.csv"));
    let table = std::fs::read(dir.join("risk.csv")).unwrap();
    let mut reader = csv::Reader::from_reader(table.as_slice());
    let header = reader.headers().unwrap().clone();
    let column = |name: &str| header.iter().position(|found| found == name).unwrap_or_else(|| panic!("no {name}"));
    let at = ["row", "undefended: risk over shadow models", "undefended: AUC over shadow models"].map(column);
    column("label-only: risk over shadow models");
    assert!(
        !header.iter().any(|name| name == "temperature-scaled: risk over shadow models"),
        "no bank stands before it"
    );
    let records: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    assert_eq!(records.len(), 300);
    // With six models some records have no stranger among those that judge them: they have no risk.
    let judged = records.iter().filter(|row| !row[at[1]].is_empty());
    let rows: Vec<[f64; 3]> = judged.map(|row| at.map(|at| row[at].parse().unwrap())).collect();
    assert!(rows.len() > 250, "{}", rows.len());
    let mut worst = rows.clone();
    worst.sort_by(|a, b| b[1].total_cmp(&a[1]).then(b[2].total_cmp(&a[2])).then(a[0].total_cmp(&b[0])));
    let banks = found["findings"]["leave_one_out"].as_array().unwrap();
    let bank = banks.iter().find(|bank| bank["system"] == "undefended").unwrap();
    let told: Vec<f64> = bank["worst"].as_array().unwrap().iter().map(|risk| risk["row"].as_f64().unwrap()).collect();
    assert_eq!(told, worst[..told.len()].iter().map(|row| row[0]).collect::<Vec<_>>());
    for risk in bank["worst"].as_array().unwrap() {
        let of = |key: &str| risk[key].as_f64().unwrap();
        let row = rows.iter().find(|row| row[0] == of("row")).unwrap();
        assert_eq!(row[1], of("n_found") / of("n_in") - of("n_false") / of("n_out"), "{risk}");
        assert_eq!(row[2], of("auc"), "{risk}");
    }
    // Members and non-members of this target are models' members alike: risk is of the record, not of its side.
    // The worst are called falsely by no model: that false calls are taken off is seen at the other end.
    assert!(rows.iter().any(|row| row[1] > 0.3) && rows.iter().any(|row| row[1] < 0.0));
}

#[test]
fn a_bank_is_asked_about_every_form_of_an_image() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    write_images(dir);
    let data = "--data npy:x.npy,y.npy --split m.split.json";
    done(dir, "split --data npy:x.npy,y.npy --train 60 --test 60 --seed 1 --out m.split.json");
    let cnn = "--network cnn --channels 4,4 --hidden 16 --learning-rate 0.02 --batch-size 16 --epochs 12 --seed 4";
    done(dir, &format!("train {data} {cnn} --out m.onnx"));
    done(dir, &format!("shadows plan --out bank {data} --recipe m.json --balanced 4 --pool train,test"));
    done(dir, "shadows run bank --data npy:x.npy,y.npy --jobs 2");
    let audit = |n_forms: u32| -> Value {
        let words = format!(
            "--shadows bank --augment {n_forms} --scores-only {QUICK} --json {n_forms}.json --html {n_forms}.html"
        );
        done(dir, &format!("audit --model m.onnx {data} {words}"));
        serde_json::from_slice(&std::fs::read(dir.join(format!("{n_forms}.json"))).unwrap()).unwrap()
    };
    let (one, three) = (audit(1), audit(3));
    for (report, n_queries) in [(&one, 1), (&three, 3)] {
        let names = attack_names(system(report, "undefended"));
        for wanted in [
            "LiRA online, fixed variance",
            "LiRA offline, one-sided",
            "LiRA offline, density",
            "RMIA online",
            "RMIA offline",
        ] {
            assert!(names.iter().any(|name| name.starts_with(wanted)), "{wanted}: {names:?}");
        }
        let banks = report["findings"]["leave_one_out"].as_array().unwrap();
        assert!(banks.iter().all(|bank| bank["study"]["n_queries"] == n_queries && bank["study"]["n_models"] == 4));
    }
    let auc = |report: &Value| {
        let attacks = system(report, "undefended")["attacks"].as_array().unwrap();
        let lira = attacks.iter().find(|one| one["attack"]["name"].as_str().unwrap().starts_with("LiRA")).unwrap();
        value(&lira["auc"])
    };
    assert_ne!(auc(&one), auc(&three), "the other forms are looked at");
    let page = std::fs::read_to_string(dir.join("3.html")).unwrap();
    assert!(page.contains("3 queries a row"));
    let table = refused(workshop(), &format!("audit --model t.onnx {TARGET} --shadows bank --augment 2"));
    assert!(table.contains("--augment: expected images, got rows of shape [20]"), "{table}");
}

#[test]
fn further_trainings_are_audited_alike_and_told_by_mean_and_spread() {
    let dir = workshop();
    let words = format!("--model t.onnx --centroids t.safetensors {TARGET} --scores-only --html trainings.html");
    let found = report("trainings", &format!("{words} --training u.onnx,t.split.json,u.safetensors"));
    let trainings = &found["trainings"]["value"];
    assert_eq!((&trainings["n"], trainings["models"].as_array().unwrap().len()), (&Value::from(2), 2));
    let spread = trainings["systems"].as_array().unwrap();
    let undefended = &spread.iter().find(|one| one["system"] == "undefended").unwrap()["loss_auc"]["value"];
    let [mean, least, most, low, high] =
        ["mean", "least", "most", "low", "high"].map(|key| undefended[key].as_f64().unwrap());
    let first = system(&found, "undefended")["attacks"][0]["auc"]["value"].as_f64().unwrap();
    let second = report("second", &format!("--model u.onnx --centroids u.safetensors {TARGET} --scores-only"));
    let second = system(&second, "undefended")["attacks"][0]["auc"]["value"].as_f64().unwrap();
    assert!((mean - f64::midpoint(first, second)).abs() < 1e-12 && first != second, "{mean} {first} {second}");
    assert!(least == first.min(second) && most == first.max(second) && low <= mean && mean <= high);
    let page = std::fs::read_to_string(dir.join("trainings.html")).unwrap();
    assert!(page.contains("Over several trainings") && page.contains(&format!("{mean:.4}")));
    assert!(!found["not_tried"].to_string().contains("--training"));
    let refuse = |training: &str| {
        refused(dir, &format!("audit --model t.onnx --centroids t.safetensors {TARGET} --training {training}"))
    };
    assert!(refuse("none.onnx,t.split.json").contains("--training: no file none.onnx"));
    assert!(refuse("u.onnx,t.split.json").contains("give centroids to all trainings or to none"));
}

#[test]
fn a_lot_that_could_not_be_looked_at_says_why() {
    let dir = workshop();
    let rows = |name: &str, rows: std::ops::Range<usize>| {
        std::fs::write(dir.join(name), rows.map(|row| format!("{row}\n")).collect::<String>()).unwrap();
    };
    rows("few.members", 0..8);
    rows("few.others", 8..40);
    let words = "--model t.onnx --data csv:t.csv --members few.members --non-members few.others --scores-only";
    let found = report("few", words);
    let lot = &found["findings"]["lot"];
    assert!(lot["value"].is_null(), "{lot}");
    assert_eq!(lot["reason"], "8 members and 32 non-members: at least ten of each are needed");
    assert!(found["not_tried"].to_string().contains("at least ten of each are needed"));
}
