//! The settings as written and as meant.

use super::*;

fn check(text: &str) -> (Settings, Mistakes) {
    let mut mistakes = Vec::new();
    let written = from_file(text, Path::new("etc/sordino.toml"), &mut mistakes);
    let settings = written.check(&mut mistakes);
    (settings, mistakes)
}

#[test]
fn nothing_written_is_the_bundled_classifier_on_loopback() {
    let (settings, mistakes) = check("");
    assert!(mistakes.is_empty(), "{mistakes:?}");
    assert_eq!(settings.listen.to_string(), "127.0.0.1:8000");
    assert_eq!(settings.metrics_listen.unwrap().to_string(), "127.0.0.1:8002");
    assert_eq!((settings.name.as_str(), settings.model), (bundled::NAME, None));
    assert_eq!(settings.defence.summary(), DefenceConfig::default().summary());
    assert!(!settings.server.compute.inline);
}

#[test]
fn all_mistakes_are_reported_together() {
    let (_, mistakes) = check(
        r#"
        colour = "blue"
        [server]
        listen = "localhost"
        metrics_listen = 7
        max_body_bytes = 0
        drain_seconds = -1
        body_timeout_seconds = 0
        lisen = "x"
        [compute]
        threads = 0
        queue = "many"
        [model]
        path = "m.onnx"
        name = "a/b"
        score_kind = "scores"
        [defence]
        top_k = 0
        method = { reweight = { weight = 2.0 } }
        [log]
        format = "xml"
        level = "loud"
        "#,
    );
    let text = mistakes.join("\n");
    for word in [
        "unknown key 'colour'",
        "server.listen: expected an IP address",
        "server.metrics_listen: invalid type",
        "server.max_body_bytes: must be at least 1",
        "server.drain_seconds: expected 0 to 86400 seconds, got -1",
        "server.body_timeout_seconds: must be above 0",
        "unknown key 'server.lisen'; known: listen, ",
        "compute.threads: must be at least 1",
        "compute.queue: invalid type",
        "model.centroids: the defence",
        "model.name: expected",
        "model.score_kind",
        "weight must be between 0 and 1",
        "top_k must be at least 1",
        "log.format",
        "log.level",
    ] {
        assert!(text.contains(word), "{word:?} is not in\n{text}");
    }
    assert_eq!(mistakes.len(), 16, "{text}");
}

#[test]
fn counts_beyond_reason_are_mistakes() {
    let (_, mistakes) = check(
        r#"
        [server]
        io_threads = 100000
        max_rows = 9999999999
        max_connections = 9999999999
        max_body_bytes = 9999999999
        max_buffered_bytes = 9999999999999
        [compute]
        threads = 1000000
        queue = 9999999999999999
        "#,
    );
    let text = mistakes.join("\n");
    for word in [
        "server.io_threads: must be at most 1024, got 100000",
        "server.max_rows: must be at most",
        "server.max_connections: must be at most",
        "server.max_body_bytes: must be at most",
        "server.max_buffered_bytes: must be at most",
        "compute.threads: must be at most 1024, got 1000000",
        "compute.queue: must be at most 100000, got 9999999999999999",
    ] {
        assert!(text.contains(word), "{word:?} is not in\n{text}");
    }
    assert_eq!(mistakes.len(), 7, "{text}");
}

#[test]
fn the_example_file_is_whole_and_says_the_defaults() {
    let (example, mistakes) = check(include_str!("../../../../deploy/sordino.toml"));
    assert!(mistakes.is_empty(), "{mistakes:?}");
    let (mut default, _) = check("");
    // The one setting that suits a deployment and not a first try.
    default.server.lame_duck = Duration::from_secs(5);
    assert_eq!(example, default);
}

#[test]
fn there_is_no_defence_called_none() {
    for text in ["[defence]\nmethod = \"none\"", "[defence]\nmethod = { none = {} }", "defence = false"] {
        let (_, mistakes) = check(text);
        assert!(mistakes.iter().any(|mistake| mistake.starts_with("defence: ")), "{text}: {mistakes:?}");
    }
}

#[test]
fn a_whole_file_is_read() {
    let (settings, mistakes) = check(
        r#"
        [server]
        listen = "[::1]:9000"
        metrics_listen = "off"
        max_rows = 7
        drain_seconds = 2
        body_timeout_seconds = 0.5
        [compute]
        threads = 3
        queue_timeout_seconds = 0.25
        inline = true
        [model]
        path = "m.onnx"
        centroids = "/abs/c.safetensors"
        score_kind = "logits"
        [defence]
        method = "label-only"
        [log]
        format = "json"
        level = "debug"
        "#,
    );
    assert!(mistakes.is_empty(), "{mistakes:?}");
    assert_eq!((settings.metrics_listen, settings.name.as_str()), (None, "m"));
    assert_eq!(settings.max_rows, 7);
    assert_eq!(settings.server.drain, Duration::from_secs(2));
    assert_eq!(
        settings.server.compute,
        ComputeConfig { threads: 3, queue: 48, queue_timeout: Duration::from_millis(250), inline: true }
    );
    let files = settings.model.unwrap();
    assert_eq!(files.onnx, Path::new("etc/m.onnx"));
    assert_eq!(files.centroids.unwrap(), Path::new("/abs/c.safetensors"));
    assert_eq!(settings.load.score_kind, Some(ScoreKind::Logits));
    assert_eq!(settings.defence.method, Method::LabelOnly);
}

#[test]
fn a_file_that_is_no_toml_is_one_mistake() {
    let (_, mistakes) = check("[server\nlisten");
    assert_eq!(mistakes.len(), 1);
    assert!(mistakes[0].contains("is not TOML"), "{mistakes:?}");
}
