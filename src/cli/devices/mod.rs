//! `sordino devices`: what `--device` can name on this machine, and why the rest cannot be used.

mod step;

use std::process::ExitCode;

use crate::lab::device::{Found, Survey, survey};

/// List the devices that models can be trained on.
///
/// Asks the drivers for their lists and computes nothing. A kind that cannot be used is named with what is missing:
/// the cargo feature of this binary, a library, a device.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// One JSON object: `devices` and `unavailable`.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Step(step::Args),
}

/// Runs the command.
///
/// # Errors
/// When the JSON cannot be written, or a device fails that is timed.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(Command::Step(args)) = &args.command {
        return step::run(args);
    }
    let survey = survey();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&survey)?);
    } else {
        print!("{}", text(&survey));
    }
    Ok(ExitCode::SUCCESS)
}

fn text(survey: &Survey) -> String {
    let lines = survey.devices.iter().map(line).chain(survey.unavailable.iter().map(|missing| {
        let kind = missing.kind.to_string();
        format!("{kind:10} not available: {}\n", missing.reason)
    }));
    lines.collect()
}

fn line(found: &Found) -> String {
    let device = found.device.to_string();
    let memory = found.memory_bytes.map(|bytes| format!(", {:.1} GiB", bytes as f64 / f64::from(1 << 30)));
    format!("{device:10} {} ({}; {}{})\n", found.name, found.sort, found.driver, memory.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::device::{Device, Kind, Unavailable};

    #[test]
    fn a_device_and_a_missing_kind_have_a_line_each() {
        let found = Found {
            device: Device::Vulkan(1),
            name: "A card".to_owned(),
            sort: "discrete GPU".to_owned(),
            driver: "radv 1".to_owned(),
            memory_bytes: Some(3 << 29),
        };
        let missing = Unavailable { kind: Kind::Cuda, reason: "no driver".to_owned() };
        let text = text(&Survey { devices: vec![found], unavailable: vec![missing] });
        assert_eq!(text, "vulkan:1   A card (discrete GPU; radv 1, 1.5 GiB)\ncuda       not available: no driver\n");
    }
}
