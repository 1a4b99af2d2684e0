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
        busy_poll_microseconds = 100000
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
        "server.busy_poll_microseconds: invalid value",
        "compute.threads: must be at most 1024, got 1000000",
        "compute.queue: must be at most 100000, got 9999999999999999",
    ] {
        assert!(text.contains(word), "{word:?} is not in\n{text}");
    }
    assert_eq!(mistakes.len(), 8, "{text}");
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
        busy_poll_microseconds = 200
        [compute]
        threads = 3
        queue_timeout_seconds = 0.25
        inline = true
        quick_microseconds = 50
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
    assert_eq!(settings.server.busy_poll, Duration::from_micros(200));
    assert_eq!(
        settings.server.compute,
        ComputeConfig {
            threads: 3,
            queue: 48,
            queue_timeout: Duration::from_millis(250),
            inline: true,
            quick: Duration::from_micros(50),
            batching: None
        }
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

#[test]
fn a_model_in_another_server_needs_its_address_and_what_its_scores_are() {
    let (settings, mistakes) = check(
        r#"
        [upstream]
        urls = ["http://a:8000", "b:8001"]
        model = "clf"
        version = "3"
        protocol = "oip-grpc"
        retries = 0
        timeout_seconds = 2
        inputs = [{ name = "x", datatype = "FP32", shape = [-1, 64] }]
        [upstream.outputs]
        embedding = "refuse"
        heatmap = "pass"
        [model]
        score_output = "logits"
        score_kind = "logits"
        centroids = "c.safetensors"
        "#,
    );
    assert!(mistakes.is_empty(), "{mistakes:?}");
    assert_eq!((settings.name.as_str(), &settings.model), ("clf", &None));
    let upstream = settings.upstream.unwrap();
    let config = upstream.config;
    assert_eq!(
        config.targets.iter().map(crate::client::upstream::Target::shown).collect::<Vec<_>>(),
        ["a:8000", "b:8001"]
    );
    assert_eq!((config.retries, config.timeout), (0, Duration::from_secs(2)));
    assert_eq!((config.declared.version.as_deref(), config.declared.inputs.len()), (Some("3"), 1));
    assert_eq!(config.declared.rules["heatmap"], crate::engine::upstream::OutputRule::Pass);
    assert_eq!(upstream.centroids, Some(PathBuf::from("etc/c.safetensors")));

    let (_, mistakes) = check(
        r#"
        [upstream]
        urls = ["ftp://a", "b"]
        server_name = "a"
        client_key_file = "a.key"
        protocol = "soap"
        colour = "blue"
        timeout_seconds = 0
        [upstream.outputs]
        embedding = "drop"
        [model]
        path = "m.onnx"
        "#,
    );
    for word in [
        "ftp://a",
        "one needs the other",
        "upstream.server_name: not every address",
        "soap",
        "'upstream.colour'",
        "timeout_seconds",
        "model.path",
        "score_kind",
        "model.centroids",
    ] {
        assert!(mistakes.iter().any(|mistake| mistake.contains(word)), "{word}: {mistakes:?}");
    }
    for without_an_address in ["model = \"clf\"", "ca_file = \"a.pem\"", "server_name = \"a\""] {
        let (_, mistakes) = check(&format!("[upstream]\n{without_an_address}\n"));
        assert!(mistakes.iter().any(|mistake| mistake.contains("upstream.urls")), "{mistakes:?}");
    }
    // Half of the requests would go in clear text.
    let (_, mistakes) = check("[upstream]\nurls = [\"https://a\", \"http://b\"]\nca_file = \"a.pem\"\n");
    assert!(mistakes.iter().any(|mistake| mistake.contains("upstream.ca_file: not every")), "{mistakes:?}");
    let (_, mistakes) = check("[upstream]\nurls = [\"a\"]\n[upstream.outputs]\nembedding = \"ignore\"\n");
    assert!(mistakes.iter().any(|mistake| mistake.contains("upstream.outputs")), "{mistakes:?}");
}

#[test]
fn the_flags_of_a_transformer_container_are_understood() {
    use clap::Parser as _;
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }
    let parse = |line: &str| Line::try_parse_from(line.split(' ')).map(|line| line.args);
    let args = parse(
        "serve --model_name=clf --predictor_host=localhost:8085 --predictor_protocol=v2 --http_port=8088 --grpc_port=8089 \
         --predictor_use_ssl=false --workers=1 --predictor_request_timeout_seconds=600 --enable_predictor_health_check \
         --score-kind logits",
    )
    .unwrap();
    let mut written = Written {
        defence: Some(DefenceConfig { method: Method::LabelOnly, top_k: None, digits: None }),
        ..Written::default()
    };
    written.overlay(&args);
    let mut mistakes = Vec::new();
    args.kserve.check(&mut mistakes);
    let settings = written.check(&mut mistakes);
    assert!(mistakes.is_empty(), "{mistakes:?}");
    assert_eq!(settings.listen.to_string(), "0.0.0.0:8088");
    assert_eq!(settings.grpc_listen.unwrap().to_string(), "0.0.0.0:8089");
    assert_eq!(settings.name, "clf");
    let config = settings.upstream.unwrap().config;
    assert_eq!((config.targets[0].shown().as_str(), config.timeout), ("localhost:8085", Duration::from_secs(600)));
    let args = parse("serve --model_name=clf --predictor_host=a --predictor_use_ssl=true").unwrap();
    let mut written = Written::default();
    written.overlay(&args);
    assert_eq!(written.upstream.urls, Some(vec!["https://a".to_owned()]));
    for line in ["serve --predictor_use_ssl", "serve --predictor_host=http://a --predictor_use_ssl=true"] {
        let mut mistakes = Vec::new();
        parse(line).unwrap().kserve.check(&mut mistakes);
        assert!(mistakes[0].contains("predictor_use_ssl"), "{line}: {mistakes:?}");
    }
    // The address that is asked is the one of --upstream.
    let args = parse("serve --upstream http://a --predictor_host=b --predictor_use_ssl=true").unwrap();
    let (mut written, mut mistakes) = (Written::default(), Vec::new());
    written.overlay(&args);
    written.check(&mut mistakes);
    assert!(mistakes.iter().any(|mistake| mistake.contains("predictor_use_ssl")), "{mistakes:?}");
    assert!(parse("serve --predictor_host=a --predictor_use_ssl=perhaps").is_err());
}

#[test]
fn batches_are_off_by_default_and_their_mistakes_are_told() {
    let of =
        |text: &str| Settings::of_text(text).map(|settings| (settings.server.compute.batching, settings.preparation));
    assert_eq!(of("").unwrap(), (None, Preparation { warm_up: true, batches: vec![] }));
    assert_eq!(of("[model]\nwarm_up = false\n[batching]\nmax_size = 1\n").unwrap(), (None, Preparation::default()));
    let (batching, preparation) =
        of("[batching]\nmax_size = 32\nmax_delay_us = 500\npreferred_sizes = [4, 8]\n").unwrap();
    let expected = Batching { max_rows: 32, max_delay: Duration::from_micros(500), preferred: vec![4, 8] };
    assert_eq!(batching, Some(expected));
    assert_eq!(preparation.batches, [4, 8, 32]);
    for (text, words) in [
        ("max_size = 0", "batching.max_size: must be at least 1"),
        ("max_delay_us = 5", "without it no batches are made"),
        ("max_size = 8\nmax_delay_us = 2000000", "batching.max_delay_us: must be at most 1000000"),
        ("max_size = 8\npreferred_sizes = [8, 4]", "in ascending order, from 2 to 8"),
        ("max_size = 8\npreferred_sizes = [1]", "from 2 to 8"),
        ("max_size = 8\npreferred_sizes = [16]", "from 2 to 8"),
        ("max_size = 8\nsize = 3", "unknown key 'batching.size'; known: max_size, max_delay_us, preferred_sizes"),
        ("max_size = 8\n[compute]\ninline = true", "compute.inline"),
        ("max_size = 8\nmax_delay_us = 900000\n[compute]\nqueue_timeout_seconds = 0.5", "queue_timeout_seconds"),
    ] {
        let mistakes = of(&format!("[batching]\n{text}\n")).unwrap_err();
        assert!(mistakes.iter().any(|mistake| mistake.contains(words)), "{text}: {mistakes:?}");
    }
}

#[test]
fn tls_on_our_own_addresses_needs_a_certificate_and_its_key() {
    let both = "cert_file = \"a.pem\"\nkey_file = \"a.key\"\n";
    let (settings, mistakes) = check(&format!("[tls]\n{both}client_ca_file = \"ca.pem\"\nreload_seconds = 0\n"));
    assert_eq!(mistakes.is_empty(), cfg!(feature = "tls"), "{mistakes:?}");
    let files: Vec<_> = settings.tls.iter().flat_map(OwnTls::files).collect();
    let path = |name: &str| Path::new("etc").join(name);
    let expected = [("tls.cert_file", "a.pem"), ("tls.key_file", "a.key"), ("tls.client_ca_file", "ca.pem")];
    assert_eq!(
        files,
        expected.map(|(key, name)| (key, path(name))).iter().map(|(k, p)| (*k, &**p)).collect::<Vec<_>>()
    );
    assert_eq!(check("").0.tls, None);
    // Whoever says anything of it expects that it is spoken.
    for (said, missing) in [
        ("", "tls.cert_file: TLS needs"),
        ("cert_file = \"a.pem\"", "tls.key_file: TLS needs"),
        ("key_file = \"a.key\"", "tls.cert_file: TLS needs"),
        ("client_ca_file = \"ca.pem\"", "tls.cert_file: TLS needs"),
        ("reload_seconds = 5", "tls.key_file: TLS needs"),
        ("colour = 1", "unknown key 'tls.colour'; known: cert_file, key_file, client_ca_file, "),
    ] {
        let (_, mistakes) = check(&format!("[tls]\n{said}\n"));
        assert!(mistakes.iter().any(|mistake| mistake.contains(missing)), "{said}: {mistakes:?}");
    }
    let (_, mistakes) = check(&format!("[tls]\n{both}handshake_timeout_seconds = 0\n"));
    assert!(mistakes.iter().any(|mistake| mistake.contains("tls.handshake_timeout_seconds: must be above 0")));
}
