//! Whether a model's output for a sample depends on that sample alone. Random nodes and norms in
//! training mode are found in the graph; everything else shows when one sample is run alone, again,
//! and in a batch with samples as unlike it as possible.

use crate::array::{Array, Dtype};
use crate::error::{Error, Result};
use crate::onnx::Model;
use crate::onnx::proto::{NodeProto, TensorProto, tensor_proto::DataType};
use crate::onnx::suspect::{Suspicion, Way, suspects};
use crate::runtime::{Device, Runtime, Session, SessionOptions};
use half::f16;
use std::collections::HashSet;

/// Other samples in a batch with the one under test.
const OTHERS: usize = 3;
/// Samples that a check needs.
pub(crate) const SAMPLES: usize = OTHERS + 1;
/// The relative difference that a row may have: f32 sums in another order make about 1e-6, a mean
/// over the batch a tenth or more.
const BOUND: f64 = 1e-4;
/// The same where the graph or the device rounds values to 16 or 8 bits.
const BOUND_COARSE: f64 = 4e-3;
/// Tensors read at once to find a node: few enough to fit in memory whatever their size.
const TENSORS: usize = 16;

/// A model, and how its inputs are made from stored bytes.
pub(crate) struct Subject<'a> {
    /// What messages call it.
    pub(crate) who: &'a str,
    /// Where it runs.
    pub(crate) runtime: &'a Runtime,
    /// The model.
    pub(crate) model: &'a Model,
    /// The tensors that are kept.
    pub(crate) tensors: &'a [String],
    /// The batch, where the model fixes it.
    pub(crate) fixed: Option<usize>,
    /// The stored type of each input, and whether its samples are images.
    pub(crate) inputs: Vec<(Dtype, bool)>,
    /// Makes the inputs of a batch.
    pub(crate) feed: &'a Feed<'a>,
}

/// Makes each input, by name, from its stored bytes and the number of samples.
pub(crate) type Feed<'a> = dyn Fn(&[Vec<u8>], usize) -> Result<Vec<(String, Array)>> + 'a;

/// One sample: its bytes in each input.
pub(super) type Sample = Vec<Vec<u8>>;

/// Samples of one run and the index of the one under test.
type Lineup<'a> = (Vec<&'a Sample>, usize);

/// Checks a model on real samples before it runs `batch` of them at a time. `rows`: the bytes of
/// each input's first `count` samples. Returns the reason where only batches of one are exact.
///
/// # Errors
/// When the values of a sample are random, or depend on others in its batch: names the node that
/// causes it.
pub(crate) fn check(
    subject: &Subject<'_>,
    session: &mut Session,
    rows: &[Vec<u8>],
    count: usize,
    batch: usize,
) -> Result<Option<String>> {
    let who = subject.who;
    let suspects = suspects(subject.model, subject.tensors);
    let first = |kind: Suspicion| {
        suspects.iter().find(|(suspicion, _)| *suspicion == kind).map(|(_, node)| node)
    };
    let in_training = "export the network for inference: model.eval() before torch.onnx.export, \
                       training=False in Keras";
    if let Some(node) = first(Suspicion::Random) {
        return Err(Error::input(format!("{who}: node {node} gives other values at each run"))
            .hint(in_training));
    }
    if let Some(node) = first(Suspicion::Training) {
        let what =
            "is in training mode: what it gives for a sample depends on the others of its batch";
        return Err(Error::input(format!("{who}: node {node} {what}")).hint(in_training));
    }
    let samples = samples(rows, count);
    let Some(sample) = samples.first() else { return Ok(None) };
    let others: Vec<Sample> = subject.companions(&samples);
    let batch = subject.fixed.unwrap_or(batch);

    let filled = |others: &[Sample], place: usize, batch: usize| -> Vec<Sample> {
        // where a batch is small, each index has other companions
        let mut all: Vec<Sample> =
            others.iter().cycle().skip(place).take(batch - 1).cloned().collect();
        all.insert(place, sample.clone());
        all
    };
    let real: Vec<Sample> = if samples.len() > 1 { samples[1..].to_vec() } else { samples.clone() };
    let alone = filled(&real, 0, subject.fixed.unwrap_or(1));
    let alone: Lineup<'_> = (alone.iter().collect(), 0);
    let once = subject.run(session, subject.tensors, &alone)?;
    let again = subject.run(session, subject.tensors, &alone)?;
    let bound = if is_coarse(subject.model) || session.provider() != Device::Cpu.to_string() {
        BOUND_COARSE
    } else {
        BOUND
    };
    if let Some((tensor, _)) = subject.moved(&once, &again, bound) {
        let node = subject.locate(tensor, &alone, &alone, bound).unwrap_or_default();
        return Err(Error::input(format!(
            "{who}: two runs on one sample give different `{tensor}`, from node {node} on"
        ))
        .hint(in_training));
    }
    if batch == 1 {
        return Ok(None);
    }
    if let Some(node) = first(Suspicion::DynamicQuantization) {
        let what = format!("{who}: node {node} takes one scale for all samples of a batch");
        return match subject.fixed {
            Some(fixed) => Err(Error::input(format!("{what}, and the batch is fixed to {fixed}"))
                .hint("export it with an open batch")),
            None => Ok(Some(format!("{what}: one sample is run at a time, which is exact"))),
        };
    }
    // no more than run together later: maps may be large
    let size = subject.fixed.unwrap_or(SAMPLES.min(batch));
    let ends = [0, size - 1];
    let beside = ends.map(|place| filled(&others, place, size));
    let apart = ends.map(|place| filled(&real, place, size));
    for (at, place) in ends.into_iter().enumerate() {
        let among: Lineup<'_> = (beside[at].iter().collect(), place);
        // in a fixed batch the companions change; with an open one the sample ran alone
        let reference: Lineup<'_> = if subject.fixed.is_some() {
            (apart[at].iter().collect(), place)
        } else {
            alone.clone()
        };
        let expected = if subject.fixed.is_some() {
            subject.run(session, subject.tensors, &reference)?
        } else {
            once.clone()
        };
        let found = subject.run(session, subject.tensors, &among)?;
        if let Some((tensor, moved)) = subject.moved(&expected, &found, bound) {
            let node = subject.locate(tensor, &reference, &among, bound).unwrap_or_default();
            let error = Error::input(format!(
                "{who}: `{tensor}` of a sample depends on the other samples of its batch ({:.2} % \
                 of it moves), from node {node} on",
                100.0 * moved.min(1.0)
            ));
            return Err(error.hint(match subject.fixed {
                Some(_) => "export the network with an open batch, or a batch of 1",
                None => {
                    "export a network that computes each sample by itself, or run one at a time: \
                     --batch 1"
                }
            }));
        }
    }
    Ok(None)
}

/// The samples of `count` rows of bytes in each input.
pub(super) fn samples(rows: &[Vec<u8>], count: usize) -> Vec<Sample> {
    let row = |bytes: &Vec<u8>, at: usize| {
        let length = bytes.len() / count.max(1);
        bytes.get(at * length..(at + 1) * length).unwrap_or_default().to_vec()
    };
    (0..count).map(|at| rows.iter().map(|bytes| row(bytes, at)).collect()).collect()
}

/// Rows of the kept tensors.
type Values = Vec<Vec<f32>>;

impl Subject<'_> {
    /// Whether any node computes quantized values.
    pub(super) fn is_quantized(&self) -> bool {
        self.model.graph().node.iter().any(is_quantized)
    }

    /// Samples as unlike the first as possible, so that a scale, mean or maximum over the batch
    /// shows.
    fn companions(&self, samples: &[Sample]) -> Vec<Sample> {
        let of_input = |input: usize, which: usize| {
            let bytes = |sample: usize| {
                samples
                    .get(sample)
                    .and_then(|sample| sample.get(input))
                    .cloned()
                    .unwrap_or_default()
            };
            let (dtype, is_image) = self.inputs.get(input).copied().unwrap_or((Dtype::F32, false));
            let own = bytes(0);
            match (is_image, which) {
                (true, 0) => vec![0; own.len()],
                (true, 1) => vec![255; own.len()],
                // black and white noise: the largest contrast
                (true, _) => (0..own.len())
                    .map(|at| if at.wrapping_mul(2_654_435_761) >> 16 & 1 == 1 { 255 } else { 0 })
                    .collect(),
                (false, 0) if samples.len() > 1 => bytes(1),
                (false, _) => unlike(dtype, &own, if which == 1 { 16.0 } else { -16.0 }),
            }
        };
        (0..OTHERS)
            .map(|which| (0..self.inputs.len()).map(|input| of_input(input, which)).collect())
            .collect()
    }

    fn run(
        &self,
        session: &mut Session,
        tensors: &[String],
        (samples, place): &Lineup<'_>,
    ) -> Result<Values> {
        let rows =
            self.arrays(session, tensors, samples)?.into_iter().map(|array| row(&array, *place));
        Ok(rows.collect())
    }

    /// The values of some tensors for these samples.
    pub(super) fn arrays(
        &self,
        session: &mut Session,
        tensors: &[String],
        samples: &[&Sample],
    ) -> Result<Vec<Array>> {
        let joined: Vec<Vec<u8>> = (0..self.inputs.len())
            .map(|input| {
                samples.iter().filter_map(|sample| sample.get(input)).flatten().copied().collect()
            })
            .collect();
        let fed = (self.feed)(&joined, samples.len())?;
        let named: Vec<(&str, &Array)> =
            fed.iter().map(|(name, array)| (name.as_str(), array)).collect();
        session.run(&named, tensors)
    }

    /// The first kept tensor that differs beyond the bound, and by how much.
    fn moved(&self, a: &Values, b: &Values, bound: f64) -> Option<(&String, f64)> {
        let differences = a.iter().zip(b).map(|(a, b)| difference(a, b));
        self.tensors.iter().zip(differences).find(|(_, difference)| *difference > bound)
    }

    /// The first node on the way to a tensor whose values differ between two runs while all values
    /// before it agree.
    fn locate(&self, tensor: &str, a: &Lineup<'_>, b: &Lineup<'_>, bound: f64) -> Option<String> {
        /// More than the logarithm of any graph's length takes.
        const STEPS: usize = 40;
        let way = Way::new(self.model);
        let mut current = tensor.to_owned();
        let mut agreeing: HashSet<&str> = HashSet::new();
        for _ in 0..STEPS {
            let open: Vec<&str> =
                way.to(&current).into_iter().filter(|name| !agreeing.contains(name)).collect();
            if open.is_empty() {
                return way.node(&current);
            }
            // evenly spread ones, the nearest among them
            let step = open.len().div_ceil(TENSORS);
            let looked_at: Vec<String> =
                open.iter().rev().step_by(step).rev().map(|&name| name.to_owned()).collect();
            let options = SessionOptions { device: Device::Cpu, threads: 2 };
            let mut session = Session::new(self.runtime, self.model, &looked_at, &options).ok()?;
            for name in &looked_at {
                // what cannot be read (a sequence) counts as agreeing
                let one = std::slice::from_ref(name);
                let mut of = |(samples, place): &Lineup<'_>| {
                    let array = self.arrays(&mut session, one, samples).ok()?.into_iter().next()?;
                    Some((array, samples.len(), *place))
                };
                if let (Some(a), Some(b)) = (of(a), of(b))
                    && differs(&a, &b, bound)
                {
                    current.clone_from(name);
                    break;
                }
                agreeing.extend(way.to(name));
                agreeing.extend(open.iter().find(|open| *open == name));
            }
        }
        way.node(&current)
    }
}

/// Whether two runs differ in a tensor: in the sample's part of it, or in the whole where no axis
/// follows the batch.
fn differs(a: &(Array, usize, usize), b: &(Array, usize, usize), bound: f64) -> bool {
    let part = |(array, batch, place): &(Array, usize, usize), axis: usize| {
        let shape = array.shape();
        let inner: usize = shape.iter().skip(axis + 1).product();
        // a sample has a block of an axis that is merged with the batch
        let block = shape.get(axis).copied().unwrap_or(1) / batch * inner;
        let values = array.to_f32();
        values
            .chunks(block * batch)
            .flat_map(|all| all.iter().skip(place * block).take(block))
            .copied()
            .collect::<Vec<f32>>()
    };
    let (one, other) = (a.0.shape(), b.0.shape());
    if one.len() != other.len() || a.0.is_empty() || b.0.is_empty() {
        return false;
    }
    let follows = |axis: &usize| {
        one[*axis] % a.1 == 0
            && one[*axis] / a.1 * b.1 == other[*axis]
            && (one != other || one[*axis] > 1)
    };
    let open: Vec<usize> = (0..one.len()).filter(|&axis| one[axis] != other[axis]).collect();
    match open.as_slice() {
        [axis] if follows(axis) => difference(&part(a, *axis), &part(b, *axis)) > bound,
        // with the same batch in both, its axis looks like any other
        [] if a.1 == b.1 && a.1 > 1 => match (0..one.len()).find(follows) {
            Some(axis) => difference(&part(a, axis), &part(b, axis)) > bound,
            None => difference(&a.0.to_f32(), &b.0.to_f32()) > bound,
        },
        [] => difference(&a.0.to_f32(), &b.0.to_f32()) > bound,
        _ => false,
    }
}

/// A row of a tensor, sketched.
fn row(array: &Array, at: usize) -> Vec<f32> {
    let length = array.len() / array.shape().first().copied().unwrap_or(1).max(1);
    let place = at * length..(at + 1) * length;
    // a map may be large: f32 values are not copied whole
    match array.as_f32() {
        Some(floats) => sketch(floats.get(place).unwrap_or_default()),
        None => sketch(array.to_f32().get(place).unwrap_or_default()),
    }
}

/// Length of the sketch of a larger row.
const SKETCH: usize = 1 << 16;

/// A row, or a count sketch of a large one (Charikar, Chen and Farach-Colton 2002): sums of values
/// with pseudorandom signs. Equal rows have equal sketches, and the norm of a difference is kept
/// within about 1 %.
fn sketch(row: &[f32]) -> Vec<f32> {
    if row.len() <= SKETCH {
        return row.to_vec();
    }
    let mut sums = vec![0.0f32; SKETCH];
    for (&value, at) in row.iter().zip(0u64..) {
        // SplitMix64 (Steele, Lea and Flood 2014) gives an index and a sign
        let mut dice = at.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        dice = (dice ^ dice >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        dice = (dice ^ dice >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        dice ^= dice >> 31;
        if let Some(sum) = sums.get_mut((dice >> 32) as usize % SKETCH) {
            *sum += if dice & 1 == 1 { value } else { -value };
        }
    }
    sums
}

/// ‖a − b‖ / max(‖a‖, ‖b‖); 0 where both are the same, NaN and infinities included.
#[allow(clippy::float_cmp, reason = "the very same values")]
fn difference(a: &[f32], b: &[f32]) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let (mut apart, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (&a, &b) in a.iter().zip(b) {
        if a == b || (a.is_nan() && b.is_nan()) {
            if a.is_finite() {
                (aa, bb) = (aa + f64::from(a) * f64::from(a), bb + f64::from(b) * f64::from(b));
            }
            continue;
        }
        let (a, b) = (f64::from(a), f64::from(b));
        (apart, aa, bb) = (apart + (a - b) * (a - b), aa + a * a, bb + b * b);
    }
    match apart {
        0.0 => 0.0,
        apart if apart.is_finite() => (apart / aa.max(bb)).sqrt(),
        _ => f64::INFINITY,
    }
}

/// A sample of the same type that is far away: floats times `factor`, anything else in reverse
/// order, since integers are indices that must stay valid.
fn unlike(dtype: Dtype, bytes: &[u8], factor: f32) -> Vec<u8> {
    match dtype {
        Dtype::F32 => bytemuck::pod_collect_to_vec::<u8, f32>(bytes)
            .iter()
            .flat_map(|v| (v * factor).to_ne_bytes())
            .collect(),
        Dtype::F64 => bytemuck::pod_collect_to_vec::<u8, f64>(bytes)
            .iter()
            .flat_map(|v| (v * f64::from(factor)).to_ne_bytes())
            .collect(),
        Dtype::F16 => {
            let halves = bytemuck::pod_collect_to_vec::<u8, f16>(bytes);
            let scaled = |v: &f16| {
                f16::from_f32((v.to_f32() * factor).clamp(f16::MIN.to_f32(), f16::MAX.to_f32()))
            };
            halves.iter().flat_map(|v| scaled(v).to_ne_bytes()).collect()
        }
        _ => bytes.chunks(dtype.size()).rev().flatten().copied().collect(),
    }
}

/// Whether a graph rounds values to 16 or 8 bits.
pub(super) fn is_coarse(model: &Model) -> bool {
    let graph = model.graph();
    let is_half = |code: i64| code == DataType::Float16 as i64 || code == DataType::Bfloat16 as i64;
    let rounds = |node: &NodeProto| {
        let casts = node.op_type() == "Cast"
            && node.attribute.iter().any(|a| a.name() == "to" && is_half(a.i()));
        casts || is_quantized(node)
    };
    graph.initializer.iter().any(|tensor: &TensorProto| is_half(i64::from(tensor.data_type())))
        || graph.node.iter().any(rounds)
}

/// Whether a node computes quantized values, or converts to or from them.
fn is_quantized(node: &NodeProto) -> bool {
    node.operator().scale.is_some() || node.op_type().contains("Quant")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_relative_and_see_what_is_no_number() {
        assert!(difference(&[3.0, 4.0], &[3.0, 4.0]).abs() < f64::EPSILON);
        assert!((difference(&[3.0, 4.0], &[3.0, 4.1]) - 0.02).abs() < 1e-3);
        assert!(
            difference(&[0.0, f32::NAN, f32::INFINITY], &[0.0, f32::NAN, f32::INFINITY]).abs()
                < f64::EPSILON
        );
        assert!((difference(&[0.0], &[1e-9]) - 1.0).abs() < 1e-9);
        for b in [f32::NAN, f32::INFINITY] {
            assert!(difference(&[1.0, 1.0], &[1.0, b]).is_infinite());
        }
        assert!(difference(&[1.0], &[1.0, 2.0]).is_infinite());
    }

    #[test]
    fn a_sketch_keeps_what_rows_differ_by() {
        let row: Vec<f32> =
            (0u16..30_000).cycle().take(300_000).map(|at| (f32::from(at) * 0.37).sin()).collect();
        let near = |a: f64, b: f64| assert!((a / b - 1.0).abs() < 0.02, "{a} {b}");
        let changes: [fn(usize, f32) -> f32; 3] =
            [|_, v| v + 1e-3, |_, v| v * 1.001, |at, v| if at < 100 { -v } else { v }];
        for change in changes {
            let other: Vec<f32> = row.iter().enumerate().map(|(at, &v)| change(at, v)).collect();
            near(difference(&sketch(&row), &sketch(&other)), difference(&row, &other));
        }
        assert!(
            sketch(&row).len() == SKETCH
                && difference(&sketch(&row), &sketch(&row)).abs() < f64::EPSILON
        );
        let mut broken = row.clone();
        broken[7] = f32::NAN;
        assert!(difference(&sketch(&row), &sketch(&broken)).is_infinite());
        assert_eq!(sketch(&row[..5]), row[..5]);
    }

    #[test]
    fn companions_are_far_away_and_valid() {
        let floats: Vec<f32> = bytemuck::pod_collect_to_vec(&unlike(
            Dtype::F32,
            bytemuck::cast_slice(&[1.0f32, -2.0]),
            16.0,
        ));
        assert_eq!(floats, [16.0, -32.0]);
        let ids: Vec<i64> = bytemuck::pod_collect_to_vec(&unlike(
            Dtype::I64,
            bytemuck::cast_slice(&[5i64, 7]),
            16.0,
        ));
        assert_eq!(ids, [7, 5]);
        let halves: Vec<f16> = bytemuck::pod_collect_to_vec(&unlike(
            Dtype::F16,
            bytemuck::cast_slice(&[f16::from_f32(60000.0)]),
            -16.0,
        ));
        assert_eq!(halves, [f16::MIN]);
    }
}
