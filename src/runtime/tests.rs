//! Against the real library, where it is: `ORT_DYLIB_PATH`, or what `make build` put in place.

use super::*;
use crate::array::{Array, Dtype, Values};
use crate::onnx::feed::Feed;
use crate::onnx::{Feeding, Model};
use half::f16;
use std::path::{Path, PathBuf};

fn runtime() -> Runtime {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release").join(format!(
        "{}onnxruntime{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    ));
    let path: Option<PathBuf> =
        (std::env::var_os("ORT_DYLIB_PATH").is_none() && built.is_file()).then_some(built);
    Runtime::load(path.as_deref())
        .expect("ONNX Runtime's library: run `make build` or set ORT_DYLIB_PATH")
}

fn image(row: Vec<usize>) -> Feed {
    Feed { name: "image".into(), dtype: Dtype::U8, row, batch_axis: Some(0), constant: None }
}

fn floats(row: Vec<usize>) -> Feed {
    Feed { name: "x".into(), dtype: Dtype::F32, ..image(row) }
}

fn model(name: &str) -> Model {
    Model::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models").join(name))
        .unwrap()
}

fn cpu() -> SessionOptions {
    SessionOptions { device: Device::Cpu, threads: 1 }
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|&n| n.to_owned()).collect()
}

fn probed(name: &str, size: Option<[usize; 2]>) -> Probe {
    let model = model(name);
    probe(&runtime(), &model, &feeds(&model, size, &Feeding::default()).unwrap()).unwrap()
}

#[test]
fn the_library_is_loaded_once_and_tells_its_version() {
    let version = runtime().version;
    assert!(version.starts_with("1.") && version.split('.').count() == 3, "{version}");
    // the first call decides, as a process has one
    assert_eq!(Runtime::load(Some(Path::new("/none"))).unwrap().version, version);
}

#[test]
fn intermediate_tensors_come_in_the_order_asked_for() {
    let model = model("nhwc.onnx");
    let mut session =
        Session::new(&runtime(), &model, &names(&["block2/relu:0", "logits:0"]), &cpu()).unwrap();
    assert_eq!(session.provider(), "cpu");
    let x = Array::new(vec![2, 8, 8, 3], Values::F32(vec![0.5; 384])).unwrap();
    let values = session
        .run(&[("image:0", &x)], &names(&["logits:0", "Identity:0", "block2/relu:0", "logits:0"]))
        .unwrap();
    assert_eq!(
        values.iter().map(Array::shape).collect::<Vec<_>>(),
        [&[2, 5][..], &[2, 5], &[2, 8, 4, 4], &[2, 5]]
    );
    let total: f32 = values[1].as_f32().unwrap()[..5].iter().sum();
    assert!((total - 1.0).abs() < 1e-5);
    assert_eq!(values[0], values[3]);
}

#[test]
fn wrong_inputs_are_named() {
    let model = model("nhwc.onnx");
    let mut session = Session::new(&runtime(), &model, &[], &cpu()).unwrap();
    let good = Array::new(vec![1, 8, 8, 3], Values::F32(vec![0.0; 192])).unwrap();
    let bytes = Array::new(vec![1, 8, 8, 3], Values::U8(vec![0; 192])).unwrap();
    let flat = Array::new(vec![1, 192], Values::F32(vec![0.0; 192])).unwrap();
    let wide = Array::new(vec![1, 8, 4, 6], Values::F32(vec![0.0; 192])).unwrap();
    let out = names(&["Identity:0"]);
    let mut message =
        |inputs: &[(&str, &Array)], out: &[String]| session.run(inputs, out).unwrap_err().chain();
    assert!(message(&[("image", &good)], &out).contains("`image`: the model takes `image:0`"));
    assert!(message(&[], &out).contains("expected one value, found 0"));
    assert!(message(&[("image:0", &bytes)], &out).contains("found uint8"));
    assert!(
        message(&[("image:0", &flat)], &out)
            .contains("expected shape [?, 8, 8, 3], found [1, 192]")
    );
    assert!(message(&[("image:0", &wide)], &out).contains("found [1, 8, 4, 6]"));
    assert!(message(&[("image:0", &good)], &names(&["logits:0"])).contains("the session exposes"));
    assert!(
        Session::new(&runtime(), &model, &names(&["logit:0"]), &cpu())
            .unwrap_err()
            .find_hint()
            .unwrap()
            .contains("logits:0")
    );
}

#[test]
fn bytes_and_integers_are_fed_and_come_out() {
    let mut session = Session::new(&runtime(), &model("uint8.onnx"), &[], &cpu()).unwrap();
    let x =
        Array::new(vec![2, 3, 9, 7], Values::U8((0..=255).cycle().take(378).collect())).unwrap();
    assert_eq!(session.run(&[("image", &x)], &names(&["logits"])).unwrap()[0].shape(), [2, 5]);
    let mut session = Session::new(&runtime(), &model("int32_batch1.onnx"), &[], &cpu()).unwrap();
    let x = Array::new(vec![1, 3, 8, 8], Values::I32(vec![7; 192])).unwrap();
    assert_eq!(session.run(&[("image", &x)], &names(&["logits"])).unwrap()[0].shape(), [1, 5]);
    let mut session = Session::new(&runtime(), &model("varying.onnx"), &[], &cpu()).unwrap();
    let x = Array::new(vec![1, 64], Values::F32((0u8..64).map(|i| f32::from(i) / 64.0).collect()))
        .unwrap();
    let values = session.run(&[("x", &x)], &names(&["large", "bytes", "kept"])).unwrap();
    assert!(matches!(values[0].values(), Values::U8(v) if v[0] == 0 && v[63] == 1));
    assert!(matches!(values[1].values(), Values::I32(v) if v[32] == 50));
    assert_eq!(values[2].shape(), [1, 31]);
    // nothing chosen: an empty tensor
    let x = Array::new(vec![1, 64], Values::F32(vec![0.0; 64])).unwrap();
    assert_eq!(session.run(&[("x", &x)], &names(&["kept"])).unwrap()[0].shape(), [1, 0]);
}

#[test]
fn half_precision_goes_through() {
    use crate::onnx::proto::{
        GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TypeProto, ValueInfoProto,
        tensor_proto::DataType, type_proto,
    };
    let typed = |name: &str, code: DataType| {
        let tensor = type_proto::Tensor { elem_type: Some(code as i32), shape: None };
        let r#type =
            TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
        ValueInfoProto { name: Some(name.into()), r#type: Some(r#type), ..Default::default() }
    };
    for (code, values) in [
        (DataType::Float16, Values::F16(vec![f16::from_f32(1.5), f16::from_f32(-2.0)])),
        (DataType::Double, Values::F64(vec![1e300, -2.0])),
        (DataType::Int64, Values::I64(vec![i64::MAX, -2])),
    ] {
        let node = NodeProto {
            op_type: Some("Identity".into()),
            input: vec!["x".into()],
            output: vec!["y".into()],
            ..Default::default()
        };
        let graph = GraphProto {
            node: vec![node],
            name: Some("g".into()),
            input: vec![typed("x", code)],
            output: vec![typed("y", code)],
            ..Default::default()
        };
        let opset_import = vec![OperatorSetIdProto { domain: None, version: Some(17) }];
        let model = Model::from_proto(ModelProto {
            ir_version: Some(8),
            opset_import,
            graph: Some(graph),
            ..Default::default()
        })
        .unwrap();
        let mut session = Session::new(&runtime(), &model, &[], &cpu()).unwrap();
        let x = Array::new(vec![2], values).unwrap();
        assert_eq!(session.run(&[("x", &x)], &names(&["y"])).unwrap()[0], x);
    }
}

#[test]
fn external_data_is_found_from_any_working_folder() {
    let model = model("external.onnx");
    let mut session = Session::new(&runtime(), &model, &[], &cpu()).unwrap();
    let x = Array::new(vec![1, 16], Values::F32(vec![0.0; 16])).unwrap();
    let bias = model.initializer("bias").unwrap().unwrap();
    assert_eq!(session.run(&[("x", &x)], &names(&["logits"])).unwrap()[0].as_f32(), bias.as_f32());
}

/// A weight that stays in the model's file is read where it lies, at whatever offset: the values
/// are those of the embedded one.
#[test]
fn weights_read_in_the_file_give_the_same_bits() {
    use crate::onnx::proto::{
        AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, ValueInfoProto,
    };
    let weight = |seed: u32| {
        let values = (0..128 * 128u32)
            .map(|i| f32::from(u16::try_from(i.wrapping_mul(seed) % 2003).unwrap()) / 1000.0 - 1.0)
            .collect();
        crate::onnx::tensor_proto("w", &Array::new(vec![128, 128], Values::F32(values)).unwrap())
    };
    let node =
        |op: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>| NodeProto {
            op_type: Some(op.into()),
            input: inputs.iter().map(|&i| i.to_owned()).collect(),
            output: vec![output.to_owned()],
            attribute,
            ..Default::default()
        };
    let value = |name: &str| ValueInfoProto {
        r#type: model("external.onnx").graph().input[0].r#type.clone(),
        name: Some(name.into()),
        ..Default::default()
    };
    let constant = AttributeProto {
        name: Some("value".into()),
        r#type: Some(4),
        t: Some(weight(7)),
        ..Default::default()
    };
    let mut input = value("x");
    if let Some(crate::onnx::proto::type_proto::Value::TensorType(tensor)) =
        input.r#type.as_mut().unwrap().value.as_mut()
    {
        tensor.shape = None;
    }
    let output = ValueInfoProto { name: Some("y".into()), ..input.clone() };
    for padding in 0..4 {
        let graph = GraphProto {
            name: Some("g".repeat(1 + padding)),
            node: vec![
                node("MatMul", &["x", "w"], "a", Vec::new()),
                node("Constant", &[], "c", vec![constant.clone()]),
                node("MatMul", &["a", "c"], "y", Vec::new()),
            ],
            initializer: vec![weight(3)],
            input: vec![input.clone()],
            output: vec![output.clone()],
            ..Default::default()
        };
        let opset_import = vec![OperatorSetIdProto { domain: None, version: Some(17) }];
        let whole = Model::from_proto(ModelProto {
            ir_version: Some(8),
            opset_import,
            graph: Some(graph),
            ..Default::default()
        })
        .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.onnx");
        std::fs::write(&path, whole.bytes()).unwrap();
        let left = Model::read(&path).unwrap();
        assert!(left.bytes().len() < 1000);
        // the bytes without weights, as a model of their own, so that they are what the session
        // takes
        let references =
            Model::from_bytes(left.bytes().to_vec(), Some(folder.path().to_path_buf())).unwrap();
        let x = Array::new(
            vec![3, 128],
            Values::F32((0u16..384).map(|i| f32::from(i) / 384.0).collect()),
        )
        .unwrap();
        let run = |model: &Model| {
            let mut session = Session::new(&runtime(), model, &names(&["a"]), &cpu()).unwrap();
            session.run(&[("x", &x)], &names(&["y", "a"])).unwrap()
        };
        assert_eq!(run(&references), run(&whole), "{padding}");
        assert_eq!(run(&left), run(&whole));
    }
}

#[cfg(unix)]
#[test]
fn a_model_of_links_runs() {
    use std::os::unix::fs::symlink;
    let top = tempfile::tempdir().unwrap();
    let snapshot = top.path().join("snapshots/1");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(top.path().join("blobs")).unwrap();
    let committed =
        |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models").join(name);
    for (name, blob) in [("external.onnx", "aa"), ("external.data", "bb")] {
        std::fs::copy(committed(name), top.path().join("blobs").join(blob)).unwrap();
        symlink(Path::new("../../blobs").join(blob), snapshot.join(name)).unwrap();
    }
    let run = |path: &Path| {
        let x = Array::new(vec![1, 16], Values::F32((0u8..16).map(f32::from).collect())).unwrap();
        let mut session =
            Session::new(&runtime(), &Model::read(path).unwrap(), &[], &cpu()).unwrap();
        session.run(&[("x", &x)], &names(&["logits"])).unwrap()
    };
    assert_eq!(run(&snapshot.join("external.onnx")), run(&committed("external.onnx")));
}

#[test]
fn a_model_that_onnx_runtime_refuses_is_an_error_of_one_line() {
    let mut proto = model("external.onnx").proto().clone();
    let graph = proto.graph.as_mut().unwrap();
    graph.initializer.clear();
    graph.node[0].op_type = Some("NoSuchOperator".into());
    graph.node[0].input.truncate(1);
    let error =
        Session::new(&runtime(), &Model::from_proto(proto).unwrap(), &[], &cpu()).unwrap_err();
    assert!(
        error.chain().contains("NoSuchOperator") && !error.chain().contains('\n'),
        "{}",
        error.chain()
    );
}

#[test]
fn a_gpu_that_is_not_there_is_an_error_and_auto_takes_the_cpu() {
    let model = model("external.onnx");
    let with =
        |device| Session::new(&runtime(), &model, &[], &SessionOptions { device, threads: 1 });
    let auto = with(Device::Auto).unwrap();
    for device in [Device::Cuda(0), Device::TensorRt(0)] {
        match with(device) {
            Ok(session) => assert_eq!(session.provider(), device.to_string()),
            Err(error) => {
                assert!(
                    error.to_string().contains(&format!("device {device}"))
                        && error.find_hint().is_some(),
                    "{}",
                    error.chain()
                );
                assert!(device != Device::Cuda(0) || auto.provider() == "cpu");
            }
        }
    }
}

#[test]
fn an_open_batch_is_probed_with_two_sizes() {
    let probe = probed("nhwc.onnx", None);
    assert_eq!((probe.batch, probe.observed_batch), (None, 2));
    assert_eq!(probe.shapes["block2/relu:0"], [None, Some(8), Some(4), Some(4)]);
    assert_eq!(probe.shapes["logits:0"], [None, Some(5)]);
    assert_eq!(probe.observed["image:0"], [2, 8, 8, 3]);
    let macs = 64 * 4 * 27 + 16 * 8 * 36 + 8 * 5;
    assert_eq!(crate::onnx::cost::macs(&model("nhwc.onnx"), &probe.observed, 2), Some(macs));
}

#[test]
fn open_sides_take_the_size_given() {
    assert_eq!(
        probed("uint8.onnx", Some([11, 7])).shapes["relu"],
        [None, Some(4), Some(5), Some(3)]
    );
    assert_eq!(probed("uint8.onnx", None).shapes["relu"], [None, Some(4), Some(111), Some(111)]);
}

#[test]
fn a_batch_of_one_is_probed_as_such() {
    let probe = probed("int32_batch1.onnx", None);
    assert_eq!(probe.batch, Some(1));
    assert_eq!(probe.shapes["relu"], [Some(1), Some(4), Some(6), Some(6)]);
    // declared open, but a reshape holds one
    let probe = probed("baked_batch.onnx", None);
    assert_eq!(probe.batch, Some(1));
    assert_eq!(probe.shapes["flat"], [Some(1), Some(4)]);
}

#[test]
fn what_varies_between_samples_is_refused_with_the_reason() {
    let probe = probed("varying.onnx", None);
    let reason = |name: &str| {
        probe.refused.iter().find(|(n, _)| n == name).map(|(_, reason)| reason.as_str()).unwrap()
    };
    assert!(reason("kept").contains("varies between samples"), "{}", reason("kept"));
    assert!(reason("mean").contains("first axis"));
    assert!(reason("large").contains("bool"));
    assert!(reason("bytes").contains("i8"), "{}", reason("bytes"));
    assert_eq!(probe.shapes.keys().collect::<Vec<_>>(), ["relu"]);
}

/// A graph of float tensors: operator, input, output; the last output is the model's.
fn chain(nodes: &[(&str, &str, &str)], domain: &str, dims: &[i64]) -> Model {
    use crate::onnx::proto::{
        GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto,
        ValueInfoProto, tensor_shape_proto::Dimension, tensor_shape_proto::dimension, type_proto,
    };
    let size = |&n: &i64| {
        if n > 0 { dimension::Value::DimValue(n) } else { dimension::Value::DimParam("N".into()) }
    };
    let dim =
        dims.iter().map(|n| Dimension { value: Some(size(n)), ..Default::default() }).collect();
    let tensor = type_proto::Tensor { elem_type: Some(1), shape: Some(TensorShapeProto { dim }) };
    let r#type =
        TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    let node = |&(op, input, output): &(&str, &str, &str)| NodeProto {
        op_type: Some(op.into()),
        domain: Some(domain.into()),
        input: vec![input.into()],
        output: vec![output.into()],
        ..Default::default()
    };
    let output =
        ValueInfoProto { name: nodes.last().map(|node| node.2.into()), ..Default::default() };
    let graph = GraphProto {
        node: nodes.iter().map(node).collect(),
        name: Some("g".into()),
        input: vec![ValueInfoProto {
            name: Some("x".into()),
            r#type: Some(r#type),
            ..Default::default()
        }],
        output: vec![output],
        ..Default::default()
    };
    let version = if domain.is_empty() { 17 } else { 1 };
    let opset_import =
        vec![OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) }];
    Model::from_proto(ModelProto {
        ir_version: Some(8),
        opset_import,
        graph: Some(graph),
        ..Default::default()
    })
    .unwrap()
}

#[test]
fn an_axis_of_one_that_is_squeezed_away_is_looked_at_with_more_samples() {
    let model = chain(
        &[("GlobalAveragePool", "x", "pool"), ("Squeeze", "pool", "flat"), ("Relu", "flat", "y")],
        "",
        &[0, 3, 4, 4],
    );
    let probe = probe(&runtime(), &model, &[floats(vec![3, 4, 4])]).unwrap();
    assert_eq!((probe.batch, probe.observed_batch), (None, 2));
    assert_eq!(probe.shapes["y"], [None, Some(3)]);
    assert_eq!(probe.observed["x"], [2, 3, 4, 4]);
    assert_eq!(probe.largest_row_bytes(), 3 * 16 * 4);
}

#[test]
fn what_is_no_tensor_and_what_hides_its_names_is_probed() {
    let nodes = [
        ("SequenceConstruct", "x", "list"),
        ("Identity", "x", "nst-cache.shape.0"),
        ("Relu", "nst-cache.shape.0", "y"),
    ];
    let model = chain(&nodes, "", &[0, 3]);
    let found = probe(&runtime(), &model, &[floats(vec![3])]).unwrap();
    assert_eq!(found.refused, [("list".to_owned(), "is not a tensor".to_owned())]);
    assert_eq!(found.shapes["y"], [None, Some(3)]);
    // no operator set of ONNX itself
    let model = chain(&[("Gelu", "x", "y")], "com.microsoft", &[0, 3]);
    assert_eq!(probe(&runtime(), &model, &[floats(vec![3])]).unwrap().shapes["y"], [None, Some(3)]);
}

#[test]
fn a_size_that_does_not_fit_is_hinted_at() {
    let model = model("uint8.onnx");
    let error = probe(&runtime(), &model, &[image(vec![3, 1, 1])]).unwrap_err();
    assert!(error.find_hint().unwrap().contains("--size"), "{}", error.chain());
    let error = probe(&runtime(), &model, &[image(vec![3])]).unwrap_err();
    assert!(error.chain().contains("expected shape"), "{}", error.chain());
    let error = probe(&runtime(), &model, &[image(vec![3, 1 << 40, 1 << 40])]).unwrap_err();
    assert!(error.chain().contains("too large"), "{}", error.chain());
}
