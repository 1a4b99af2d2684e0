//! What a study did not try, in words: what it lacked, and what no study here tries.

/// What no figure here speaks about, whatever the study was given.
pub const NOT_TRIED: [&str; 7] = [
    "attacks on the defence's own fitting (estimated centroids in place of the file's, guesses at masked classes)",
    "metrics of privacy other than membership: attribute inference, reconstruction, model extraction",
    "attackers who take part in training (poisoning)",
    "attackers who read the model's weights or gradients",
    "several trained models, unless several targets were given: every interval here is over rows of one model",
    "distances of inputs to training rows as such, without any answer",
    "other paths around the proxy: timing, caches, logs, the model's own endpoint",
];

/// What a study had beside one answer a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tried {
    /// Shadow models.
    pub shadows: bool,
    /// Answers to changed rows, and to the same rows again.
    pub changed: bool,
    /// The way to the decision boundary.
    pub boundary: bool,
    /// Thresholds per class, and classifiers.
    pub learned: bool,
    /// Members that were planted.
    pub canaries: bool,
}

/// What was not tried by a study that had this much.
#[must_use]
pub fn not_tried(tried: Tried) -> Vec<String> {
    let shadows = "needs a bank of shadow models (--shadows)";
    let lacking = [
        (tried.learned, "attacks learned on answers, thresholds per class: left out (--scores-only)".to_owned()),
        (tried.shadows, format!("likelihood-ratio attacks (LiRA), RMIA and difficulty calibration: {shadows}")),
        (tried.shadows, format!("the risk of single records: {shadows}")),
        (
            tried.changed,
            "label-only attacks by changed inputs: need a system that can be asked again (--queries)".to_owned(),
        ),
        (tried.changed, "repeated and perturbed queries: need a system that can be asked again (--queries)".to_owned()),
        (tried.boundary, "distance to the decision boundary: needs some hundred queries a row (--boundary)".to_owned()),
        (tried.changed, "queries that mix a record with another (against routing): need a system that can be asked again (--queries)".to_owned()),
        (
            tried.canaries,
            "planted records (canaries): need a model that was trained with them (sordino data plant)".to_owned(),
        ),
    ];
    let lacking = lacking.into_iter().filter_map(|(was, what)| (!was).then_some(what));
    lacking.chain(NOT_TRIED.iter().map(|&what| what.to_owned())).collect()
}
