//! `bench step`: one training step on synthetic images, with the network, batch, optimizer and
//! warm-up of the usual comparison in PyTorch.

use crate::memory::peak_rss_mb;
use crate::summary::{Summary, summary};
use crate::{Context, emit, emit_json};
use candle_core::{Device, Tensor};
use comfy_table::{CellAlignment, Table, presets};
use nst_cache::criterion::papers::cross_entropy::cross_entropy;
use nst_cache::error::{Error, Result};
use nst_cache::kernel::blocked::ceiling::{self, Ceiling};
use nst_cache::onnx::Model;
use nst_cache::onnx::proto::{AttributeProto, tensor_shape_proto, type_proto};
use nst_cache::recipe::OptimizerRecipe;
use nst_cache::student::{Executor, ImportOptions, Mode, Precision, Student, preset};
use nst_cache::trainer::optimizer::Optimizer;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::num::NonZeroUsize;
use std::time::Instant;

/// Arguments of `bench step`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The networks: resnet20, wrn-16-2, resnet18-224, mobilenetv2-224, mobilenetv2-32 [default:
    /// all]
    #[arg(long, value_name = "NET", value_delimiter = ',')]
    model: Vec<String>,
    /// Images of a step [default: 128 of 32x32, 16 of 224x224]
    #[arg(long, value_name = "N")]
    batch: Option<NonZeroUsize>,
    /// Steps that are measured
    #[arg(long, default_value_t = NonZeroUsize::new(25).unwrap_or(NonZeroUsize::MIN))]
    steps: NonZeroUsize,
    /// Steps before them
    #[arg(long, default_value_t = 6)]
    warmup: usize,
    /// The convolutions' rounding
    #[arg(long, value_name = "fast|strict", default_value_t)]
    precision: Precision,
    /// Dense tensors and no blocked kernels: what the fast executor is compared with
    #[arg(long)]
    general: bool,
    /// Where to train: cpu, cuda, cuda:INDEX or auto
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: nst_cache::runtime::Device,
}

/// A network of the comparison.
struct Net {
    name: &'static str,
    preset: &'static str,
    classes: usize,
    side: usize,
    batch: usize,
}

const NETS: &[Net] = &[
    Net { name: "resnet20", preset: "resnet20", classes: 10, side: 32, batch: 128 },
    Net { name: "wrn-16-2", preset: "wrn-16-2", classes: 10, side: 32, batch: 128 },
    Net { name: "resnet18-224", preset: "resnet18", classes: 1000, side: 224, batch: 16 },
    Net { name: "mobilenetv2-224", preset: "mobilenetv2", classes: 1000, side: 224, batch: 16 },
    Net { name: "mobilenetv2-32", preset: "mobilenetv2", classes: 10, side: 32, batch: 128 },
];

/// What was measured of one network.
#[derive(Debug, Serialize)]
struct StepRow {
    model: &'static str,
    batch: usize,
    threads: usize,
    precision: Precision,
    device: &'static str,
    median_ms: f64,
    p10_ms: f64,
    p90_ms: f64,
    images_per_s: f64,
    /// Of the process so far; `null` where the system does not say.
    peak_rss_mb: Option<f64>,
    parameters: usize,
    /// Arithmetic of a step by direct products, in units of 1e9 operations; `null` for the general
    /// executor, as the next two.
    gflop: Option<f64>,
    /// Maps read and written, in units of 1e9 bytes.
    gb: Option<f64>,
    /// The machine's, measured in this run.
    ceiling_gflop_s: f64,
    ceiling_gb_s: f64,
}

pub fn run(args: &Args, context: &Context<'_>) -> Result<()> {
    let nets: Vec<&Net> = if args.model.is_empty() {
        NETS.iter().collect()
    } else {
        args.model.iter().map(|name| find(name)).collect::<Result<_>>()?
    };
    let device = training(args.device)?;
    let ceiling = ceiling::measure();
    let mut rows = Vec::new();
    for net in nets {
        context.monitor.note(&format!("{}: {} + {} steps", net.name, args.warmup, args.steps));
        rows.push(measure(net, args, &device, context.threads, ceiling)?);
    }
    if context.json {
        return match rows.as_slice() {
            [row] => emit_json(row),
            rows => emit_json(&rows),
        };
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "network",
        "batch",
        "median ms",
        "p10",
        "p90",
        "images/s",
        "peak MB",
        "parameters",
        "Gflop",
        "GB",
        "ms at the ceilings",
    ]);
    for row in &rows {
        table.add_row([
            row.model.to_owned(),
            row.batch.to_string(),
            format!("{:.1}", row.median_ms),
            format!("{:.1}", row.p10_ms),
            format!("{:.1}", row.p90_ms),
            format!("{:.0}", row.images_per_s),
            row.peak_rss_mb.map_or_else(|| "-".to_owned(), |mb| format!("{mb:.0}")),
            row.parameters.to_string(),
            number(row.gflop),
            number(row.gb),
            format!(
                "{} + {}",
                number(row.gflop.map(|gflop| gflop / row.ceiling_gflop_s * 1e3)),
                number(row.gb.map(|gb| gb / row.ceiling_gb_s * 1e3))
            ),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    emit(&format!(
        "{table}\n{}, {} threads, float32, precision {}; ceilings measured in this run: {:.0} \
         Gflop/s from registers, {:.1} GB/s through memory",
        kind(&device),
        context.threads,
        args.precision,
        ceiling.gflop_s,
        ceiling.gb_s
    ))
}

/// The numeric core's device.
fn training(asked: nst_cache::runtime::Device) -> Result<Device> {
    use nst_cache::runtime::Device as Asked;
    Ok(match asked {
        Asked::Cpu => Device::Cpu,
        Asked::Auto => Device::cuda_if_available(0)?,
        Asked::Cuda(index) => Device::new_cuda(index)?,
        Asked::TensorRt(_) => {
            return Err(Error::input("--device: expected cpu, cuda[:INDEX] or auto"));
        }
    })
}

fn kind(device: &Device) -> &'static str {
    if device.is_cpu() { "cpu" } else { "cuda" }
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"))
}

fn find(name: &str) -> Result<&'static Net> {
    NETS.iter().find(|net| net.name == name).ok_or_else(|| {
        let names: Vec<&str> = NETS.iter().map(|net| net.name).collect();
        Error::input(format!("--model: expected one of {}, found `{name}`", names.join(", ")))
    })
}

#[allow(clippy::cast_precision_loss, reason = "a number of images")]
fn measure(
    net: &Net,
    args: &Args,
    on: &Device,
    threads: usize,
    ceiling: Ceiling,
) -> Result<StepRow> {
    let batch = args.batch.map_or(net.batch, NonZeroUsize::get);
    let executor =
        if args.general { Executor::Reference } else { Executor::Blocked(args.precision) };
    let student = Student::import(
        &network(net)?,
        &ImportOptions { executor, device: on.clone(), ..ImportOptions::default() },
    )?;
    let mut random = ChaCha8Rng::seed_from_u64(0);
    // the sum of four uniform numbers has the moments, and nearly the shape, of a normal one
    let mut normal = || (0..4).map(|_| random.random::<f32>() - 0.5).sum::<f32>() * 3f32.sqrt();
    let pixels: Vec<f32> = (0..batch * 3 * net.side * net.side).map(|_| normal()).collect();
    let images = Tensor::from_vec(pixels, (batch, 3, net.side, net.side), &Device::Cpu)?;
    let labels = (0..batch)
        .map(|_| i64::try_from(random.random_range(0..net.classes)))
        .collect::<Result<Vec<_>, _>>();
    let labels = labels.map_err(|e| Error::input("--model: classes do not fit").because(e))?;
    let variables = student.parameters().iter().map(|p| p.var.clone()).collect();
    let sgd = OptimizerRecipe::Sgd { lr: 0.01, momentum: 0.9, nesterov: true, weight_decay: 5e-4 };
    let mut optimizer = Optimizer::create(variables, sgd)?;
    let work = student.step_cost(&[images.dims().to_vec()])?;
    let mut times = Vec::with_capacity(args.steps.get());
    for step in 0..args.warmup + args.steps.get() {
        let start = Instant::now();
        let pass = student.forward(std::slice::from_ref(&images), Mode::Train, &[], step as u64)?;
        let loss = cross_entropy(pass.value(student.logits())?, &labels, 0.0)?;
        let gradients = pass.backward(vec![(student.logits(), loss.gradient)])?;
        optimizer.update(&gradients, 0.01, 1.0)?;
        if !loss.value.is_finite() {
            return Err(Error::check(format!(
                "{}: step {step}: the loss is {}",
                net.name, loss.value
            )));
        }
        // a device works behind the host's back
        on.synchronize()?;
        if step >= args.warmup {
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    let Summary { median: median_ms, p10: p10_ms, p90: p90_ms } = summary(times);
    Ok(StepRow {
        model: net.name,
        batch,
        threads,
        precision: args.precision,
        device: kind(on),
        median_ms,
        p10_ms,
        p90_ms,
        images_per_s: batch as f64 / median_ms * 1e3,
        peak_rss_mb: peak_rss_mb(),
        parameters: student.parameters().iter().map(|p| p.var.elem_count()).sum(),
        gflop: work.map(|work| 2.0 * work.multiply_adds as f64 / 1e9),
        gb: work.map(|work| work.bytes as f64 / 1e9),
        ceiling_gflop_s: ceiling.gflop_s,
        ceiling_gb_s: ceiling.gb_s,
    })
}

/// The network, as the comparison has it: MobileNetV2 at 32×32 is the large form with its first
/// two strides taken out.
fn network(net: &Net) -> Result<Model> {
    if (net.preset, net.side) != ("mobilenetv2", 32) {
        return preset::build(net.preset, net.classes, [3, net.side, net.side], 0);
    }
    let mut proto = preset::build(net.preset, net.classes, [3, 224, 224], 0)?.proto().clone();
    let graph = proto.graph.get_or_insert_default();
    let strides = |a: &&mut AttributeProto| a.name() == "strides" && a.ints == [2, 2];
    for attribute in
        graph.node.iter_mut().flat_map(|node| &mut node.attribute).filter(strides).take(2)
    {
        attribute.ints = vec![1, 1];
    }
    let shape =
        graph.input.iter_mut().filter_map(|input| match input.r#type.as_mut()?.value.as_mut()? {
            type_proto::Value::TensorType(tensor) => tensor.shape.as_mut(),
            _ => None,
        });
    let side = i64::try_from(net.side).unwrap_or(i64::MAX);
    for dimension in shape.flat_map(|shape| shape.dim.iter_mut().skip(2)) {
        dimension.value = Some(tensor_shape_proto::dimension::Value::DimValue(side));
    }
    Model::from_proto(proto)
}
