//! Writes the Rust of `src/protocol/grpc/proto/inference.proto`: messages and descriptors for the protocol, a stub for the
//! client. Run from the root of the repository; needs no protoc.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use prost::Message as _;

const PROTO: &str = "src/protocol/grpc/proto";
const MESSAGES: &str = "src/protocol/grpc/messages.rs";
const DESCRIPTORS: &str = "src/protocol/grpc/descriptors.bin";
const CLIENT: &str = "src/client/inference_client.rs";

fn main() -> anyhow::Result<()> {
    let mut descriptors = protox::compile(["inference.proto"], [PROTO])?;
    let out = std::env::temp_dir().join("sordino-proto");
    let generate = |name: &str, client: bool| -> anyhow::Result<String> {
        let folder = out.join(name);
        fs::create_dir_all(&folder)?;
        let mut builder = tonic_prost_build::configure()
            .build_server(false)
            .build_client(client)
            .build_transport(false)
            .bytes(".")
            .btree_map(".")
            .emit_rerun_if_changed(false)
            .out_dir(&folder);
        if client {
            builder = builder.extern_path(".inference", "crate::protocol::grpc::messages");
        }
        builder.compile_fds(descriptors.clone())?;
        Ok(fs::read_to_string(folder.join("inference.rs"))?)
    };
    write(MESSAGES, "//! The messages of the protocol over gRPC. Made by `just proto`; do not edit.\n\n", &generate("messages", false)?)?;
    write(CLIENT, "//! The stub that calls the protocol over gRPC. Made by `just proto`; do not edit.\n\n", &generate("client", true)?)?;
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    fs::write(DESCRIPTORS, descriptors.encode_to_vec())?;
    Ok(())
}

fn write(path: &str, head: &str, text: &str) -> anyhow::Result<()> {
    fs::write(Path::new(path), format!("{head}{text}")).with_context(|| format!("cannot write {path}"))
}
