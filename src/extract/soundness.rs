//! Whether ONNX Runtime's optimizations keep a model's values: a few samples are run with and
//! without them. Some releases fuse patterns that they misread, and nothing else shows it.

use super::independence::{Subject, is_coarse, samples};
use crate::array::Array;
use crate::error::Result;
use crate::monitor::Monitor;
use crate::onnx::logits;
use crate::runtime::{Device, Level, Runtime, Session};

/// Samples that run with and without optimizations.
const ROWS: usize = 3;
/// The difference that a value may have, relative to the largest of its tensor: fused float32 sums
/// make 1e-6 in common networks, a norm of very small variance more, a fault a tenth or more.
const BOUND: f64 = 1e-2;
/// The same where the graph or the device rounds values to 16 bits.
const BOUND_COARSE: f64 = 5e-2;

/// Runs a model's first `count` samples, of which `rows` holds the bytes of each input, with its
/// session and without optimizations. Where a value differs beyond rounding, warns and replaces the
/// session by one of the highest level that agrees, and returns the runtime at that level. A model
/// that cannot run without optimizations is not compared.
///
/// # Errors
/// When the model cannot run.
pub(crate) fn check(
    subject: &Subject<'_>,
    session: &mut Session,
    rows: &[Vec<u8>],
    count: usize,
    batch: usize,
    monitor: &dyn Monitor,
) -> Result<Option<Runtime>> {
    // fused quantized nodes round to other integers, which is not a fault
    if count == 0 || subject.is_quantized() {
        return Ok(None);
    }
    let samples = samples(rows, count);
    let size = subject.fixed.unwrap_or(ROWS.min(batch).min(count));
    let fed: Vec<_> = samples.iter().cycle().take(size).collect();
    let optimized = subject.arrays(session, subject.tensors, &fed)?;
    let at = |level: Level| {
        let runtime = subject.runtime.limited_to(level);
        let mut limited = session.again(&runtime, subject.model, subject.tensors).ok()?;
        let values = subject.arrays(&mut limited, subject.tensors, &fed).ok()?;
        Some((runtime, limited, values))
    };
    let Some((off, plain, reference)) = at(Level::Disabled) else { return Ok(None) };
    let bound = if is_coarse(subject.model) || session.provider() != Device::Cpu.to_string() {
        BOUND_COARSE
    } else {
        BOUND
    };
    let moved = |values: &[Array]| {
        let apart = subject.tensors.iter().zip(values).zip(&reference).map(|((tensor, a), b)| {
            let least = logits::least_size(subject.model, tensor);
            (tensor, apart(&a.to_f32(), &b.to_f32(), least))
        });
        apart.into_iter().find(|(_, apart)| *apart > bound)
    };
    let Some((tensor, apart)) = moved(&optimized) else { return Ok(None) };
    let agreeing = [Level::Extended, Level::Basic].into_iter().find_map(|level| {
        let (runtime, limited, values) = at(level)?;
        moved(&values).is_none().then_some((level, runtime, limited))
    });
    let (level, runtime, limited) = agreeing.unwrap_or((Level::Disabled, off, plain));
    monitor.warn(&format!(
        "ONNX Runtime {}: its optimizations move `{tensor}` by {:.0} % of its largest value: for \
         this run they are {}",
        subject.runtime.version,
        100.0 * apart,
        if level == Level::Disabled { "off".to_owned() } else { format!("limited to {level}") }
    ));
    *session = limited;
    Ok(Some(runtime))
}

/// max |a − b| / max |b|, by no less than `least`; 0 where both are the same, NaN and infinities
/// included.
#[allow(clippy::float_cmp, reason = "the very same values")]
fn apart(a: &[f32], b: &[f32], least: f64) -> f64 {
    if a.len() != b.len() {
        return f64::INFINITY;
    }
    let (mut most, mut scale) = (0.0f64, least);
    for (&a, &b) in a.iter().zip(b) {
        if b.is_finite() {
            scale = scale.max(f64::from(b).abs());
        }
        if a == b || (a.is_nan() && b.is_nan()) {
            continue;
        }
        let difference = (f64::from(a) - f64::from(b)).abs();
        most = most.max(if difference.is_nan() { f64::INFINITY } else { difference });
    }
    if most == 0.0 { 0.0 } else { most / scale }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::Dtype;
    use crate::onnx::Model;
    use crate::onnx::proto::tensor_shape_proto::{Dimension, dimension::Value};
    use crate::onnx::proto::{
        GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto,
        ValueInfoProto, type_proto,
    };
    use crate::runtime::SessionOptions;
    use std::sync::Mutex;

    /// `y` of `x` `[batch, 2]` by one operator.
    fn model(op: &str) -> Model {
        let value = |name: &str| {
            let dims = [Value::DimParam("batch".into()), Value::DimValue(2)];
            let dim = dims.map(|value| Dimension { value: Some(value), ..Dimension::default() });
            let tensor = type_proto::Tensor {
                elem_type: Some(1),
                shape: Some(TensorShapeProto { dim: dim.into() }),
            };
            let value = Some(type_proto::Value::TensorType(tensor));
            let r#type = Some(TypeProto { value, ..TypeProto::default() });
            ValueInfoProto { name: Some(name.into()), r#type, ..ValueInfoProto::default() }
        };
        let graph = GraphProto {
            name: Some("graph".into()),
            node: vec![NodeProto {
                op_type: Some(op.into()),
                input: vec!["x".into()],
                output: vec!["y".into()],
                ..NodeProto::default()
            }],
            input: vec![value("x")],
            output: vec![value("y")],
            ..GraphProto::default()
        };
        Model::from_proto(ModelProto {
            ir_version: Some(8),
            opset_import: vec![OperatorSetIdProto { version: Some(17), ..Default::default() }],
            graph: Some(graph),
            ..ModelProto::default()
        })
        .unwrap()
    }

    /// Keeps the warnings.
    #[derive(Default)]
    struct Warned(Mutex<Vec<String>>);

    impl Monitor for Warned {
        fn begin(&self, _: &str, _: &'static str, _: u64, _: u64) {}
        fn advance(&self, _: u64, _: u64) {}
        fn status(&self, _: &str) {}
        fn end(&self) {}
        fn note(&self, _: &str) {}
        fn warn(&self, line: &str) {
            self.0.lock().unwrap().push(line.to_owned());
        }
        fn stop_requested(&self) -> bool {
            false
        }
    }

    #[test]
    fn a_session_that_computes_something_else_is_replaced_and_named() {
        let library = Runtime::load(None).unwrap();
        let (sound, names) = (model("Relu"), vec!["y".to_owned()]);
        let subject = Subject {
            who: "teacher",
            runtime: &library,
            model: &sound,
            tensors: &names,
            fixed: None,
            inputs: vec![(Dtype::F32, false)],
            feed: &|bytes, count| {
                Ok(vec![("x".into(), Array::from_bytes(Dtype::F32, vec![count, 2], &bytes[0])?)])
            },
        };
        let rows = vec![bytemuck::cast_slice(&[1.0f32, -2.0, 3.0, -4.0]).to_vec()];
        let options = SessionOptions { device: Device::Cpu, threads: 1 };
        let checked = |op: &str| {
            let mut session = Session::new(&library, &model(op), &names, &options).unwrap();
            let warned = Warned::default();
            let limited = check(&subject, &mut session, &rows, 2, 8, &warned).unwrap();
            let x = Array::from_bytes(Dtype::F32, vec![2, 2], &rows[0]).unwrap();
            let y = session.run(&[("x", &x)], &names).unwrap().remove(0).to_f32();
            (limited.map(|runtime| runtime.describe()), y, warned.0.into_inner().unwrap())
        };
        // as if optimizations had made another operator of it
        let version = &library.version;
        let (limited, y, warned) = checked("Abs");
        assert_eq!(y, [1.0, 0.0, 3.0, 0.0]);
        assert_eq!(limited, Some(format!("{version} (optimizations: extended)")));
        assert_eq!(
            warned,
            [format!(
                "ONNX Runtime {version}: its optimizations move `y` by 133 % of its largest \
                 value: for this run they are limited to extended"
            )]
        );
        assert_eq!(checked("Relu"), (None, vec![1.0, 0.0, 3.0, 0.0], Vec::new()));
    }

    #[test]
    fn values_are_apart_relative_to_the_largest() {
        let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-6, "{found}");
        near(apart(&[0.0, -2.0], &[0.0, -2.0], 0.0), 0.0);
        near(apart(&[0.1, -2.0], &[0.0, -2.0], 0.0), 0.05);
        near(apart(&[f32::NAN, f32::INFINITY, 1.0], &[f32::NAN, f32::INFINITY, 2.0], 0.0), 0.5);
        near(apart(&[2e-8], &[1e-8], 1e-2), 1e-6);
        for (a, b) in [
            (&[f32::NAN, 1.0][..], &[1.0, 1.0][..]),
            (&[1.0, 1.0], &[f32::INFINITY, 1.0]),
            (&[1.0], &[1.0, 1.0]),
            (&[1.0], &[0.0]),
        ] {
            assert!(apart(a, b, 0.0).is_infinite(), "{a:?} {b:?}");
        }
    }
}
