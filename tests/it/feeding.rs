//! How inputs are fed: the batch on another axis than the first, one value for all samples, types
//! that are converted.

#![allow(clippy::unwrap_used, reason = "a test")]

use crate::support::graph::{BFLOAT16, BOOL, FLOAT, INT8, UINT16, int, value, write_graph};
use crate::support::{self, OPTIONS, Sandbox, bytes, noise};

use nst_cache::array::{Array, Dtype, Values};
use nst_cache::cache::{Cache, Manifest};
use nst_cache::error::Error;
use nst_cache::extract;
use nst_cache::monitor::Silent;
use nst_cache::onnx::proto::{AttributeProto, GraphProto, ValueInfoProto};
use nst_cache::onnx::{InputValue, tensor_proto};
use nst_cache::recipe::Extract;
use nst_cache::runtime::Runtime;
use std::path::Path;

/// Samples of a data set.
const SAMPLES: usize = 11;

/// Writes a model of these nodes over `x` [N, 3] and more inputs; `w` [3, 4] and `first` (the axis
/// 0) are there.
fn write_model(
    path: &Path,
    inputs: Vec<ValueInfoProto>,
    nodes: &[(&str, &[&str], &str, Vec<AttributeProto>)],
) {
    let graph = GraphProto {
        name: Some("teacher".into()),
        input: inputs,
        output: vec![value("logits", FLOAT, &["N", "4"])],
        initializer: vec![
            tensor_proto("w", &noise(&[3, 4], 5)),
            tensor_proto("first", &Array::new(vec![1], Values::I64(vec![0])).unwrap()),
        ],
        node: nodes
            .iter()
            .map(|(op, inputs, output, attributes)| {
                support::node(op, inputs, output, attributes.clone())
            })
            .collect(),
        ..GraphProto::default()
    };
    write_graph(path, graph);
}

fn extract(recipe: &Extract) -> Result<Cache, Error> {
    extract::run(recipe, &Runtime::load(None).unwrap(), &OPTIONS, &Silent)?;
    Cache::open(&recipe.output)
}

/// What `cache verify --live` finds wrong.
fn wrong(recipe: &Extract) -> usize {
    let live = support::compare(recipe);
    assert_eq!(live.rows, SAMPLES);
    live.wrong().count()
}

fn recipe(folder: &Path) -> Extract {
    support::recipe(folder, &format!("npz:{}", folder.join("data.npz").display()))
}

/// Checks the logits of each row against those computed of its sample, `expected(sample, class)`.
fn check_logits(cache: &Cache, expected: impl Fn(usize, usize) -> f32) {
    let logits: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes(cache, "logits"));
    for (row, &id) in logits.chunks(4).zip(cache.sample_ids()) {
        for (class, found) in row.iter().enumerate() {
            let expected = expected(usize::try_from(id).unwrap(), class);
            assert!(
                (found - expected).abs() < 1e-5,
                "sample {id}, class {class}: {found}, expected {expected}"
            );
        }
    }
}

/// `x` times `w`, by sample and class.
fn product(x: &Array) -> impl Fn(usize, usize) -> f32 {
    let (x, w) = (x.to_f32(), noise(&[3, 4], 5).to_f32());
    move |sample, class| (0..3).map(|i| x[sample * 3 + i] * w[i * 4 + class]).sum()
}

#[test]
fn a_batch_on_another_axis_keeps_samples_apart() {
    let folder = &Sandbox::with_runtime();
    let (x, state) = (noise(&[SAMPLES, 3], 1), noise(&[SAMPLES, 2, 4], 2));
    support::write_npz(&folder.join("data.npz"), &[("x", &x), ("state", &state)]);
    let nodes: [(&str, &[&str], &str, _); 3] = [
        ("MatMul", &["x", "w"], "p", vec![]),
        ("ReduceSum", &["state", "first"], "kept", vec![]),
        ("Squeeze", &["kept", "first"], "sum", vec![]),
    ];
    let nodes = [nodes.as_slice(), &[("Add", &["p", "sum"], "logits", vec![])]].concat();
    let check = |cache: &Cache| {
        let (product, state) = (product(&x), state.to_f32());
        check_logits(cache, |sample, class| {
            product(sample, class) + state[sample * 8 + class] + state[sample * 8 + 4 + class]
        });
        let spec = cache.array("inputs/state").unwrap().spec().clone();
        assert_eq!(
            (spec.batch_axis, spec.row_shape, cache.manifest().format),
            (Some(1), vec![2, 4], Manifest::FORMAT_SUMS)
        );
    };
    // the symbol says it
    write_model(
        &folder.join("teacher.onnx"),
        vec![value("x", FLOAT, &["N", "3"]), value("state", FLOAT, &["2", "N", "4"])],
        &nodes,
    );
    let mut recipe = recipe(folder);
    check(&extract(&recipe).unwrap());
    assert_eq!(wrong(&recipe), 0);
    // nothing says it: refused, or as the user says
    write_model(
        &folder.join("teacher.onnx"),
        vec![value("x", FLOAT, &["N", "3"]), value("state", FLOAT, &["2", "M", "4"])],
        &nodes,
    );
    recipe.output = folder.join("told");
    let error = extract(&recipe).err().unwrap();
    assert!(
        error.chain().contains("input `state`: its batch axis is unknown"),
        "{}",
        error.chain()
    );
    assert!(error.find_hint().unwrap().contains("--batch-axis state=N"));
    recipe.feeding.batch_axes = vec!["state=1".parse().unwrap()];
    check(&extract(&recipe).unwrap());
    assert_eq!(wrong(&recipe), 0);
}

#[test]
fn a_tensor_with_the_batch_elsewhere_is_never_split() {
    let folder = &Sandbox::with_runtime();
    // as many steps as a probe has samples, and as the model's batch has
    for (steps, symbol) in [(2, "N"), (3, "N"), (5, "5")] {
        let x = noise(&[10, steps, 3], 3);
        support::write_npz(&folder.join("data.npz"), &[("x", &x)]);
        let nodes: [(&str, &[&str], &str, _); 3] = [
            ("MatMul", &["x", "w"], "hidden", vec![]),
            ("ReduceSum", &["hidden", "first"], "kept", vec![]),
            ("Squeeze", &["kept", "first"], "logits", vec![]),
        ];
        write_model(
            &folder.join("teacher.onnx"),
            vec![value("x", FLOAT, &["S", symbol, "3"])],
            &nodes,
        );
        let mut recipe = recipe(folder);
        recipe.output = folder.join(format!("{steps}"));
        recipe.batch = None;
        recipe.feeding.batch_axes = vec!["x=1".parse().unwrap()];
        let cache = extract(&recipe).unwrap();
        let values = x.to_f32();
        let summed: Vec<f32> = (0..30)
            .map(|i| (0..steps).map(|step| values[(i / 3) * steps * 3 + step * 3 + i % 3]).sum())
            .collect();
        check_logits(&cache, product(&Array::new(vec![10, 3], Values::F32(summed)).unwrap()));
        recipe.taps = vec!["hidden".into()];
        recipe.output = folder.join(format!("{steps}-hidden"));
        let error = extract(&recipe).err().unwrap().chain();
        assert!(error.contains("`hidden`") && error.contains("batch"), "{error}");
    }
}

#[test]
fn a_constant_is_fed_beside_the_data_and_recorded() {
    let folder = &Sandbox::with_runtime();
    let x = noise(&[SAMPLES, 3], 1);
    support::write_npz(&folder.join("data.npz"), &[("x", &x)]);
    let inputs = vec![
        value("x", FLOAT, &["N", "3"]),
        value("temp", FLOAT, &[]),
        value("shift", FLOAT, &["N", "4"]),
    ];
    let nodes: [(&str, &[&str], &str, _); 3] = [
        ("MatMul", &["x", "w"], "p", vec![]),
        ("Mul", &["p", "temp"], "scaled", vec![]),
        ("Add", &["scaled", "shift"], "logits", vec![]),
    ];
    write_model(&folder.join("teacher.onnx"), inputs, &nodes);
    let mut recipe = recipe(folder);
    let error = extract(&recipe).err().unwrap();
    assert!(error.find_hint().unwrap().contains("--input temp=VALUE"), "{}", error.chain());
    let given = |input: &str, values: &[f64]| InputValue {
        input: input.into(),
        shape: None,
        values: values.to_vec(),
    };
    recipe.feeding.values = vec![given("temp", &[0.1]), given("shift", &[1.0, 2.0, 3.0, 4.0])];
    let cache = extract(&recipe).unwrap();
    let product = product(&x);
    #[allow(clippy::cast_precision_loss, reason = "a class")]
    check_logits(&cache, |sample, class| product(sample, class) * 0.1 + class as f32 + 1.0);
    assert_eq!(
        cache
            .manifest()
            .teacher
            .constants
            .iter()
            .map(|c| (c.tensor.as_str(), c.batch_axis))
            .collect::<Vec<_>>(),
        [("temp", None), ("shift", Some(0))]
    );
    assert_eq!(cache.manifest().format, Manifest::FORMAT_SUMS);
    drop(cache);
    assert_eq!(wrong(&recipe), 0);
    assert!(extract(&recipe).is_ok(), "goes on with the same value");
    recipe.feeding.values[0].values = vec![0.2];
    let error = extract(&recipe).err().unwrap().chain();
    assert!(error.contains("constants"), "{error}");
}

#[test]
fn every_type_of_input_is_fed_and_stored() {
    let folder = &Sandbox::with_runtime();
    let x = noise(&[SAMPLES, 3], 1);
    let ints: Vec<i64> = (0..i64::try_from(SAMPLES * 4).unwrap()).collect();
    let mask = Array::new(
        vec![SAMPLES, 4],
        Values::Bool(ints.iter().map(|i| u8::from(i % 3 == 0)).collect()),
    )
    .unwrap();
    let small = Array::new(vec![SAMPLES, 4], Values::I64(ints.iter().map(|i| i % 9 - 4).collect()))
        .unwrap();
    let depth = Array::new(
        vec![SAMPLES, 4],
        Values::U16(ints.iter().map(|&i| u16::try_from(i * 1000).unwrap()).collect()),
    )
    .unwrap();
    let half = noise(&[SAMPLES, 4], 9);
    // float64 for float32, int64 for int8, float32 for bfloat16
    let wide = x.converted(Dtype::F64).unwrap();
    let arrays =
        [("x", &wide), ("mask", &mask), ("small", &small), ("depth", &depth), ("half", &half)];
    support::write_npz(&folder.join("data.npz"), &arrays);
    let inputs = vec![
        value("x", FLOAT, &["N", "3"]),
        value("mask", BOOL, &["N", "4"]),
        value("small", INT8, &["N", "4"]),
        value("depth", UINT16, &["N", "4"]),
        value("half", BFLOAT16, &["N", "4"]),
    ];
    let names = ["mask", "small", "depth", "half"];
    let mut nodes: Vec<(&str, &[&str], &str, Vec<AttributeProto>)> =
        vec![("MatMul", &["x", "w"], "p", vec![])];
    nodes.push(("Cast", &names[0..1], "f0", vec![int("to", FLOAT.into())]));
    nodes.push(("Cast", &names[1..2], "f1", vec![int("to", FLOAT.into())]));
    nodes.push(("Cast", &names[2..3], "f2", vec![int("to", FLOAT.into())]));
    nodes.push(("Cast", &names[3..4], "f3", vec![int("to", FLOAT.into())]));
    nodes.push(("Sum", &["p", "f0", "f1", "f2", "f3"], "logits", vec![]));
    write_model(&folder.join("teacher.onnx"), inputs, &nodes);
    let recipe = recipe(folder);
    let cache = extract(&recipe).unwrap();
    let (product, rounded) = (product(&x), half.converted(Dtype::BF16).unwrap().to_f32());
    let others: Vec<Vec<f32>> = vec![mask.to_f32(), small.to_f32(), depth.to_f32(), rounded];
    let logits: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes(&cache, "logits"));
    for (row, &id) in logits.chunks(4).zip(cache.sample_ids()) {
        let sample = usize::try_from(id).unwrap();
        for (class, found) in row.iter().enumerate() {
            let expected =
                product(sample, class) + others.iter().map(|o| o[sample * 4 + class]).sum::<f32>();
            assert!(
                (found - expected).abs() <= 1e-5 * expected.abs().max(1.0),
                "{found}, expected {expected}"
            );
        }
    }
    let dtypes = ["x", "mask", "small", "depth", "half"]
        .map(|name| cache.array(&format!("inputs/{name}")).unwrap().spec().dtype);
    assert_eq!(dtypes, [Dtype::F32, Dtype::Bool, Dtype::I8, Dtype::U16, Dtype::F32]);
    drop(cache);
    assert_eq!(wrong(&recipe), 0);
    let report = nst_cache::cache::verify(&recipe.output, 1, &Silent).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
}
