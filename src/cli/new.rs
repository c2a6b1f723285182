//! `new`: writes an untrained student.

use super::{Context, emit, emit_json, file};
use crate::error::{Context as _, Result};
use crate::onnx::cost;
use crate::student::preset::{self, Head};
use serde_json::json;
use std::io::Write;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  nst-cache new resnet20 --classes 10 --input 3x32x32 -o student.onnx
  nst-cache new resnet18 --embedding 384 --input 3x224x224 -o embedder.onnx
  nst-cache new --list";

/// Arguments of `new`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The network (see `--list`)
    #[arg(required_unless_present = "list")]
    preset: Option<String>,
    /// Number of classes
    #[arg(long, value_name = "K", required_unless_present_any = ["list", "embedding"])]
    classes: Option<usize>,
    /// Width of an embedding in place of class logits
    #[arg(long, value_name = "N", conflicts_with = "classes")]
    embedding: Option<usize>,
    /// Channels, height and width of its images, such as 3x32x32
    #[arg(long, value_name = "CxHxW", value_parser = parse_input, required_unless_present = "list")]
    input: Option<[usize; 3]>,
    /// Seed of its initial parameters
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The file to write
    #[arg(short, long, value_name = "FILE", required_unless_present = "list")]
    output: Option<PathBuf>,
    /// Replace an existing file
    #[arg(long)]
    force: bool,
    /// Print the presets and stop
    #[arg(long)]
    list: bool,
}

/// Builds a preset and writes it, or lists the presets.
///
/// # Errors
/// If the preset cannot be built, or the file exists or cannot be written.
pub fn run(args: Args, context: &Context<'_>) -> Result<()> {
    let head = args.classes.map(Head::Classes).or(args.embedding.map(Head::Embedding));
    let (Some(name), Some(head), Some(input), Some(path)) =
        (args.preset, head, args.input, args.output)
    else {
        return list(context.json);
    };
    if args.list {
        return list(context.json);
    }
    file::refuse_existing(&path, args.force)?;
    let model = preset::build(&name, head, input, args.seed)?;
    file::write_whole(&path, args.force, |out| {
        out.write_all(model.bytes()).context(|| format!("{}: cannot be written", path.display()))
    })?;
    let parameters = cost::parameters(&model);
    context
        .monitor
        .note(&format!("{name}: {parameters} parameters, written to {}", path.display()));
    if context.json {
        emit_json(&json!({ "path": path, "parameters": parameters, "sha256": model.sha256() }))?;
    }
    Ok(())
}

fn list(json: bool) -> Result<()> {
    let names = preset::names();
    if json {
        let presets: Vec<_> = names
            .iter()
            .map(|(name, description)| json!({ "name": name, "description": description }))
            .collect();
        return emit_json(&presets);
    }
    let width = names.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    let lines: Vec<_> =
        names.iter().map(|(name, description)| format!("{name:width$}  {description}")).collect();
    emit(&lines.join("\n"))
}

/// Parses `3x32x32` into [3, 32, 32].
fn parse_input(text: &str) -> Result<[usize; 3], String> {
    let sizes: Option<Vec<usize>> = text.split('x').map(|size| size.parse().ok()).collect();
    sizes
        .and_then(|sizes| sizes.try_into().ok())
        .ok_or_else(|| "expected channels, height and width, such as 3x32x32".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::monitor::Silent;
    use crate::onnx::Model;
    use crate::recipe::Config;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn new(arguments: &[&str]) -> Result<()> {
        let args = Cli::try_parse_from([&["new"], arguments].concat())
            .map_err(|e| Error::input(e.to_string()))?
            .args;
        let config = Config::default();
        run(
            args,
            &Context {
                config: &config,
                json: false,
                threads: 1,
                onnxruntime: None,
                monitor: &Silent,
            },
        )
    }

    #[test]
    fn writes_the_preset_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("students/a.onnx");
        let line = [
            "resnet8",
            "--classes",
            "10",
            "--input",
            "1x28x28",
            "--seed",
            "7",
            "-o",
            path.to_str().unwrap(),
        ];
        new(&line).unwrap();
        assert_eq!(
            std::fs::read(&path).unwrap(),
            preset::build("resnet8", 10, [1, 28, 28], 7).unwrap().bytes()
        );
        assert_eq!(cost::parameters(&Model::read(&path).unwrap()), 77_754);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn replaces_a_file_only_by_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.onnx");
        std::fs::write(&path, "precious").unwrap();
        let line = ["lenet", "--classes", "10", "--input", "1x28x28", "-o", path.to_str().unwrap()];
        let error = new(&line).unwrap_err();
        assert!(error.to_string().ends_with("a.onnx: already exists"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        new(&[&line[..], &["--force"]].concat()).unwrap();
        Model::read(&path).unwrap();
    }

    #[test]
    fn a_preset_that_cannot_be_built_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.onnx");
        assert!(
            new(&["vgg8", "--classes", "10", "--input", "3x4x4", "-o", path.to_str().unwrap()])
                .is_err()
        );
        assert!(
            new(&[
                "resnet9",
                "--classes",
                "10",
                "--input",
                "3x32x32",
                "-o",
                path.to_str().unwrap()
            ])
            .is_err()
        );
        assert!(
            new(&["resnet8", "--classes", "10", "--input", "3x32", "-o", path.to_str().unwrap()])
                .is_err()
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn lists_without_further_arguments() {
        new(&["--list"]).unwrap();
        assert!(new(&["resnet8"]).is_err());
    }

    #[test]
    fn inputs_are_three_sizes() {
        assert_eq!(parse_input("3x224x160"), Ok([3, 224, 160]));
        for wrong in ["", "3", "3x32", "3x32x32x1", "3x-1x3", "axbxc", "3X32X32"] {
            assert!(parse_input(wrong).is_err(), "{wrong}");
        }
    }
}
