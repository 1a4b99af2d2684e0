//! What a study did not try, in words: what it lacked, and what no study here tries.

/// What no figure here speaks about, whatever the study was given.
pub const NOT_TRIED: [&str; 6] = [
    "attacks on the defence's own fitting (estimated centroids in place of the file's, guesses at masked classes)",
    "metrics of privacy other than membership: attribute inference, reconstruction, model extraction",
    "attackers who take part in training (poisoning)",
    "attackers who read the model's weights or gradients",
    "distances of inputs to training rows as such, without any answer",
    "other paths around the proxy: timing, caches, logs, the model's own endpoint",
];

/// Where the answers came from, by which it is told what would have allowed more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Source {
    /// A model in this process.
    #[default]
    Model,
    /// A running endpoint.
    Endpoint,
    /// A file of answers: nobody can be asked again.
    Predictions,
}

/// What a study had beside one answer a row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tried {
    /// Where the answers came from.
    pub source: Source,
    /// Shadow models.
    pub shadows: bool,
    /// Answers to changed rows, and to the same rows again.
    pub changed: bool,
    /// The way to the decision boundary.
    pub boundary: bool,
    /// Thresholds per class, and classifiers.
    pub learned: bool,
    /// Attacks learned on a shadow model of the same data (ML-Leaks' adversary 1).
    pub adversary_one: bool,
    /// Attacks learned on a shadow model of other data (adversary 2).
    pub adversary_two: bool,
    /// Random points, by which the largest entry is judged (adversary 3).
    pub adversary_three: bool,
    /// Members that were planted.
    pub canaries: bool,
    /// Several trainings.
    pub trainings: bool,
    /// Some system's defence was undone.
    pub undone: bool,
    /// The two sides were compared without any model; else why not, in words.
    pub lot: Option<Result<(), String>>,
}

/// What was not tried by a study that had this much. No option is named that the command line of its source refuses.
#[must_use]
pub fn not_tried(tried: &Tried) -> Vec<String> {
    let shadows = match tried.source {
        Source::Model | Source::Endpoint => "needs a bank of shadow models (--shadows)",
        Source::Predictions => "needs shadow models, and an audit of the model or its endpoint to set them beside",
    };
    let shadow_model = match tried.source {
        Source::Model | Source::Endpoint => "--shadow-model with --shadow-split, or --shadows",
        Source::Predictions => "an audit of the model or its endpoint takes one",
    };
    let again = |option: &str| match tried.source {
        Source::Predictions => "a system that can be asked again, and a file cannot".to_owned(),
        Source::Model | Source::Endpoint => format!("a system that can be asked again ({option})"),
    };
    let centroids = match tried.source {
        Source::Model => "needs the defence's centroids (--centroids)",
        Source::Endpoint => "the defence was not undone (give --defence and --centroids)",
        Source::Predictions => {
            "the defence was not undone, for a file does not say which it was (an audit of the endpoint takes --defence \
             and --centroids)"
        }
    };
    let lot = match &tried.lot {
        Some(Err(reason)) => reason.clone(),
        Some(Ok(())) | None => "needs the rows (--data, with a split or files of row numbers)".to_owned(),
    };
    let lacking = [
        (tried.learned, "attacks learned on answers, thresholds per class: left out (--scores-only)".to_owned()),
        (tried.undone, format!("attackers who know the defence and undo it: {centroids}")),
        (
            matches!(tried.lot, Some(Ok(()))),
            format!("membership by lot, whether the two sides differ without any model: {lot}"),
        ),
        (tried.shadows, format!("likelihood-ratio attacks (LiRA), RMIA and difficulty calibration: {shadows}")),
        (tried.shadows, format!("the risk of single records: {shadows}")),
        (tried.adversary_one, format!("ML-Leaks' adversary 1: needs a shadow model of the same data ({shadow_model})")),
        (
            tried.adversary_two,
            "ML-Leaks' adversary 2: needs a shadow model of other data (--transfer-shadow)".to_owned(),
        ),
        (
            tried.adversary_three,
            format!(
                "ML-Leaks' adversary 3, the largest entry against random points: needs {}",
                again("--random-points")
            ),
        ),
        (tried.changed, format!("label-only attacks by changed inputs: need {}", again("--queries"))),
        (tried.changed, format!("repeated and perturbed queries: need {}", again("--queries"))),
        (
            tried.boundary,
            format!("distance to the decision boundary: some hundred queries a row, needs {}", again("--boundary")),
        ),
        (
            tried.changed,
            format!("queries that mix a record with another (against routing): need {}", again("--queries")),
        ),
        (tried.trainings, "several trainings (--training): every interval over rows is of one model".to_owned()),
        (
            tried.canaries,
            "planted records (canaries): need a model that was trained with them (sordino data plant)".to_owned(),
        ),
    ];
    let lacking = lacking.into_iter().filter_map(|(was, what)| (!was).then_some(what));
    lacking.chain(NOT_TRIED.iter().map(|&what| what.to_owned())).collect()
}
