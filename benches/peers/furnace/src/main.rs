//! furnace-server with the MLP written by hand: it takes no ONNX at run time. `PEER_PORT`, `PEER_GRPC_PORT` and
//! `PEER_WEIGHTS` say where to listen and what to read.

use furnace::*;

#[derive(Debug)]
struct Mlp {
    values: Vec<f32>,
}

impl TensorModel for Mlp {
    fn name(&self) -> &str {
        "clf"
    }

    fn backend(&self) -> &str {
        "cpu"
    }

    fn inputs(&self) -> Vec<IoSpec> {
        vec![IoSpec::fp32("input", &[64])]
    }

    fn outputs(&self) -> Vec<IoSpec> {
        vec![IoSpec::fp32("output", &[10])]
    }

    fn run(&self, inputs: Vec<HostTensor>) -> Result<Vec<HostTensor>> {
        let n_rows = inputs[0].batch();
        let Values::F32(x) = &inputs[0].values else { unreachable!("the server checks the type") };
        let (w1, rest) = self.values.split_at(64 * 128);
        let (b1, rest) = rest.split_at(128);
        let (w2, b2) = rest.split_at(128 * 10);
        let mut out = Vec::with_capacity(n_rows * 10);
        for row in x.chunks_exact(64) {
            let mut hidden = b1.to_vec();
            for (value, weights) in row.iter().zip(w1.chunks_exact(128)) {
                hidden.iter_mut().zip(weights).for_each(|(h, w)| *h += value * w);
            }
            let mut logits = b2.to_vec();
            for (value, weights) in hidden.iter().map(|h| h.max(0.0)).zip(w2.chunks_exact(10)) {
                logits.iter_mut().zip(weights).for_each(|(l, w)| *l += value * w);
            }
            out.extend(logits);
        }
        Ok(vec![HostTensor { shape: vec![n_rows, 10], values: Values::F32(out) }])
    }
}

fn setting(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let bytes = std::fs::read(setting("PEER_WEIGHTS")).expect("the weights");
    let values = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    let grpc_port = setting("PEER_GRPC_PORT").parse().expect("a port");
    Server::new()
        .port(setting("PEER_PORT").parse().expect("a port"))
        .model(Model::custom(Mlp { values }))
        .configure(|config| config.grpc_port = Some(grpc_port))
        .serve()
        .await
        .expect("the server runs");
}
