use super::*;
use crate::array::Values;
use proto::tensor_proto::{DataLocation, DataType};
use proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, ValueInfoProto,
};

fn named(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: Some(name.into()), ..Default::default() }
}

fn node(op: &str, input: &[&str], output: &[&str]) -> NodeProto {
    let strings = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
    NodeProto {
        op_type: Some(op.into()),
        input: strings(input),
        output: strings(output),
        ..Default::default()
    }
}

fn weight(name: &str) -> TensorProto {
    tensor_proto(name, &Array::new(vec![2], Values::F32(vec![1.0, 2.0])).unwrap())
}

/// x → Add(w) → a → Relu → y
fn small() -> ModelProto {
    ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: None, version: Some(17) }],
        graph: Some(GraphProto {
            node: vec![node("Add", &["x", "w"], &["a"]), node("Relu", &["a"], &["y"])],
            initializer: vec![weight("w")],
            input: vec![named("x"), named("w")],
            output: vec![named("y")],
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn edited(edit: impl FnOnce(&mut GraphProto)) -> Result<Model> {
    let mut proto = small();
    edit(proto.graph.as_mut().unwrap());
    Model::from_proto(proto)
}

fn message(result: Result<Model>) -> String {
    result.unwrap_err().chain()
}

fn committed(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/models").join(name)
}

#[test]
fn a_built_model_is_read_back_the_same() {
    let model = Model::from_proto(small()).unwrap();
    let again = Model::from_bytes(model.bytes().to_vec(), None).unwrap();
    assert_eq!(model.proto(), again.proto());
    assert_eq!(model.sha256(), again.sha256());
    assert_eq!(model.sha256().len(), 64);
    assert_eq!(model.opset(), 17);
    // an initializer that is also listed as an input is not an input
    assert_eq!(model.inputs().iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["x"]);
    assert_eq!(model.initializer("w").unwrap().unwrap().values(), &Values::F32(vec![1.0, 2.0]));
    assert_eq!(model.initializer("x").unwrap(), None);
}

#[test]
fn bytes_that_are_no_model_are_refused() {
    let refused = |bytes: &[u8]| message(Model::from_bytes(bytes.to_vec(), None));
    assert!(refused(b"").contains("empty"));
    assert!(refused(b"\x89PNG\r\n\x1a\n and more").contains("not an ONNX model"));
    assert!(
        refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n").contains("Git LFS")
    );
    assert!(refused(b"\x08\x08").contains("expected a graph"));
    let whole = Model::from_proto(small()).unwrap().bytes().to_vec();
    for keep in 0..whole.len() {
        if let Ok(model) = Model::from_bytes(whole[..keep].to_vec(), None) {
            // a cut between two fields leaves a valid message, but it must still be a whole graph
            assert_eq!(model.proto().graph, small().graph, "{keep}");
        }
    }
}

#[test]
fn every_flipped_byte_is_an_error_or_a_model_but_never_a_panic() {
    let whole = Model::from_proto(small()).unwrap().bytes().to_vec();
    for at in 0..whole.len() {
        for flip in [1u8, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            if let Ok(model) = Model::from_bytes(bytes, None) {
                let names: Vec<String> =
                    model.graph().initializer.iter().map(|t| t.name().to_owned()).collect();
                for name in names {
                    drop(model.initializer(&name));
                }
                drop(tap::candidates(&model, &std::collections::HashMap::new(), None));
                let _ = cost::parameters(&model);
            }
        }
    }
}

#[test]
fn a_graph_defines_each_name_once_and_in_order() {
    assert!(message(edited(|g| g.node.swap(0, 1))).contains("node Relu `y` reads `a`"));
    assert!(message(edited(|g| g.node[1].output[0] = "a".into())).contains("already defined"));
    assert!(message(edited(|g| g.node[1].output[0] = "x".into())).contains("already defined"));
    assert!(message(edited(|g| g.initializer.push(weight("w")))).contains("initializer `w`"));
    assert!(message(edited(|g| g.input.push(named("x")))).contains("input `x`"));
    assert!(message(edited(|g| g.node[1].input[0] = "b".into())).contains("reads `b`"));
    assert!(message(edited(|g| g.output[0] = named("z"))).contains("output `z`"));
    // the format does not require an output
    assert!(edited(|g| g.output.clear()).unwrap().outputs().is_empty());
    // an empty name is an absent optional input or output
    edited(|g| g.node[1].input.push(String::new())).unwrap();
}

#[test]
fn subgraphs_see_what_stands_before_their_node() {
    let branch = |reads: &str| {
        let body = GraphProto {
            node: vec![node("Relu", &[reads], &["inner"])],
            output: vec![named("inner")],
            ..Default::default()
        };
        let mut condition = node("If", &["x"], &["z"]);
        condition.attribute.push(AttributeProto {
            name: Some("then_branch".into()),
            g: Some(body),
            ..Default::default()
        });
        edited(|g| g.node.insert(1, condition))
    };
    branch("a").unwrap();
    assert!(message(branch("y")).contains("reads `y`"));
}

#[test]
fn outputs_are_appended_without_touching_the_file() {
    let model = Model::from_proto(small()).unwrap();
    let bytes = model.with_outputs(&["a".into(), "y".into(), "a".into()]).unwrap();
    assert!(bytes.starts_with(model.bytes()));
    let more = Model::from_bytes(bytes, None).unwrap();
    assert_eq!(more.outputs().iter().map(|o| o.name.as_str()).collect::<Vec<_>>(), ["y", "a"]);
    assert_eq!(more.graph().node, model.graph().node);
    assert_eq!(model.with_outputs(&[]).unwrap(), model.bytes());
    // ONNX Runtime would silently accept these
    for name in ["x", "w", "Y", ""] {
        assert!(
            model.with_outputs(&[name.to_owned()]).unwrap_err().to_string().contains("no node"),
            "{name}"
        );
    }
    assert!(model.with_outputs(&["Y".into()]).unwrap_err().find_hint().unwrap().contains("`y`"));
}

#[test]
fn declared_shapes_are_read() {
    let model = Model::read(&committed("uint8.onnx")).unwrap();
    let [input] = &model.inputs()[..] else { panic!() };
    assert_eq!(input.dtype, Some(Dtype::U8));
    assert_eq!(
        input.shape,
        [Dim::Symbol("N".into()), Dim::Fixed(3), Dim::Symbol("H".into()), Dim::Symbol("W".into())]
    );
    assert_eq!(model.opset(), 7);
    assert_eq!(cost::parameters(&model), 4 * 3 * 9 + 8 + 20 + 5 + 1);
}

#[test]
fn metadata_is_found_by_key() {
    let mut proto = small();
    proto
        .metadata_props
        .push(StringStringEntryProto { key: Some("k".into()), value: Some("v".into()) });
    let model = Model::from_proto(proto).unwrap();
    assert_eq!((model.metadata("k"), model.metadata("K")), (Some("v"), None));
}

#[test]
fn external_data_is_read_and_named_in_the_hash() {
    let model = Model::read(&committed("external.onnx")).unwrap();
    assert_eq!(model.initializer("fc").unwrap().unwrap().shape(), [16, 8]);
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("other-name.onnx");
    std::fs::copy(committed("external.onnx"), &copy).unwrap();
    std::fs::copy(committed("external.data"), folder.path().join("external.data")).unwrap();
    assert_eq!(Model::read(&copy).unwrap().sha256(), model.sha256());
    let mut data = std::fs::read(committed("external.data")).unwrap();
    data[7] ^= 1;
    std::fs::write(folder.path().join("external.data"), &data).unwrap();
    assert_ne!(Model::read(&copy).unwrap().sha256(), model.sha256());
    std::fs::write(folder.path().join("external.data"), &data[..data.len() - 1]).unwrap();
    assert!(message(Model::read(&copy)).contains("found a file of"));
    std::fs::remove_file(folder.path().join("external.data")).unwrap();
    let error = Model::read(&copy).unwrap_err();
    assert!(
        error.chain().contains("no such file") && error.find_hint().is_some(),
        "{}",
        error.chain()
    );
    assert!(
        message(Model::from_bytes(std::fs::read(&copy).unwrap(), None))
            .contains("not read from a folder")
    );
}

#[test]
fn external_data_stays_inside_the_folder() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), [0u8; 64]).unwrap();
    let folder = outside.path().join("model");
    std::fs::create_dir_all(folder.join("sub")).unwrap();
    std::fs::write(folder.join("data"), [0u8; 64]).unwrap();
    std::fs::write(folder.join("sub/data"), [0u8; 64]).unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(outside.path().join("secret"), folder.join("link")).unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.join("up")).unwrap();
    }
    let read = |entries: &[(&str, &str)]| {
        let entry = |&(key, value): &(&str, &str)| StringStringEntryProto {
            key: Some(key.into()),
            value: Some(value.into()),
        };
        let mut proto = small();
        proto.graph.as_mut().unwrap().initializer[0] = TensorProto {
            name: Some("w".into()),
            dims: vec![2],
            data_type: Some(DataType::Float as i32),
            data_location: Some(DataLocation::External as i32),
            external_data: entries.iter().map(entry).collect(),
            ..Default::default()
        };
        Model::from_bytes(proto.encode_to_vec(), Some(folder.clone()))
    };
    read(&[("location", "data"), ("offset", "56"), ("length", "8")]).unwrap();
    read(&[("location", "./sub/data")]).unwrap();
    let absolute = outside.path().join("secret").display().to_string();
    for (entries, expected) in [
        (vec![("location", "../secret")], "inside the model's folder"),
        (vec![("location", absolute.as_str())], "inside the model's folder"),
        (vec![("location", "sub/../../secret")], "inside the model's folder"),
        (vec![("location", "sub")], "plain file"),
        (vec![("location", "none")], "no such file"),
        (vec![], "expected a location"),
        (vec![("location", "data"), ("offset", "57")], "found a file of 64 bytes"),
        (
            vec![("location", "data"), ("offset", "18446744073709551615")],
            "found a file of 64 bytes",
        ),
        (vec![("location", "data"), ("length", "9")], "expected 8 bytes"),
        (vec![("location", "data"), ("offset", "-1")], "expected a number"),
    ] {
        let text = message(read(&entries));
        assert!(text.contains(expected) && text.contains("`w`"), "{entries:?}: {text}");
    }
    #[cfg(unix)]
    for location in ["link", "up/secret"] {
        assert!(
            message(read(&[("location", location)])).contains("a link that leads out of"),
            "{location}"
        );
    }
    // a parent path or link that stays inside is fine
    read(&[("location", "../model/data")]).unwrap();
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("sub/data", folder.join("inside")).unwrap();
        assert!(read(&[("location", "inside")]).unwrap().initializer("w").unwrap().is_some());
    }
    assert!(message(read(&[("location", ".\\data")])).contains("expected a path with `/`"));
    let hint = read(&[("location", "old.data")]).unwrap_err().find_hint().unwrap().to_owned();
    assert!(hint.contains("`data`"), "{hint}");
    std::fs::write(folder.join("short"), "version https://git-lfs.github.com/spec/v1").unwrap();
    assert!(message(read(&[("location", "short"), ("offset", "40")])).contains("Git LFS pointer"));
}

/// A weight of 64 × 64 values that no other element has.
fn large(name: &str) -> TensorProto {
    let values = (0u16..4096).map(|i| f32::from(i) / 3.0).collect();
    tensor_proto(name, &Array::new(vec![64, 64], Values::F32(values)).unwrap())
}

/// x → MatMul(w) → a → Add(Constant) → y, written to a file of this name; returns the
/// folder and the file.
fn large_file(name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let mut proto = small();
    let graph = proto.graph.as_mut().unwrap();
    graph.input.pop();
    graph.initializer = vec![large("w"), weight("small")];
    let mut constant = node("Constant", &[], &["c"]);
    constant.attribute.push(AttributeProto {
        name: Some("value".into()),
        t: Some(large("")),
        ..Default::default()
    });
    graph.node =
        vec![node("MatMul", &["x", "w"], &["a"]), constant, node("Add", &["a", "c"], &["y"])];
    let path = folder.path().join(name);
    std::fs::write(&path, proto.encode_to_vec()).unwrap();
    (folder, path)
}

#[test]
fn large_weights_stay_in_the_file() {
    let (_folder, path) = large_file("m.onnx");
    let (bytes, model) = (std::fs::read(&path).unwrap(), Model::read(&path).unwrap());
    let whole = Model::from_bytes(bytes.clone(), None).unwrap();
    assert!(
        model.bytes().len() < 1000 && bytes.len() > 32_000,
        "{} of {}",
        model.bytes().len(),
        bytes.len()
    );
    assert_eq!(model.sha256(), whole.sha256());
    assert_eq!(model.initializer("w").unwrap(), whole.initializer("w").unwrap());
    assert_eq!(cost::parameters(&model), cost::parameters(&whole));
    let constant = |model: &Model| {
        model.tensor(model.graph().node[1].attribute[0].t.as_ref().unwrap()).unwrap()
    };
    assert_eq!(constant(&model), constant(&whole));
    // the whole is the file's bytes, and additions are added to both
    assert_eq!(model.whole_with_outputs(&[]).unwrap(), bytes);
    let exposed =
        Model::from_bytes(model.whole_with_outputs(&["a".into()]).unwrap(), None).unwrap();
    assert_eq!(exposed.outputs().len(), 2);
    let held = model.held().unwrap();
    assert_eq!(held.proto(), whole.proto());
    assert_eq!((held.sha256(), held.folder()), (whole.sha256(), None));

    // another file of the same name is not read as this one
    let mut other = bytes.clone();
    other.push(0);
    std::fs::write(&path, &other).unwrap();
    for text in [
        model.initializer("w").unwrap_err().chain(),
        model.with_outputs(&[]).unwrap_err().chain(),
        model.whole_with_outputs(&[]).unwrap_err().chain(),
        message(model.held()),
    ] {
        assert!(text.contains("has changed since it was read"), "{text}");
    }
    assert_eq!(held.initializer("w").unwrap(), whole.initializer("w").unwrap());
}

#[test]
fn packed_floats_are_left_in_the_file_and_others_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    let floats = TensorProto {
        raw_data: None,
        float_data: (0u16..8192).map(f32::from).collect(),
        dims: vec![8192],
        ..large("w")
    };
    let doubles = TensorProto {
        raw_data: None,
        double_data: (0u16..4096).map(f64::from).collect(),
        data_type: Some(DataType::Double as i32),
        ..large("d")
    };
    let whole_numbers = TensorProto {
        raw_data: None,
        int64_data: vec![1; 4096],
        data_type: Some(DataType::Int64 as i32),
        ..large("i")
    };
    // two bytes fewer than the shape requires: left to whoever reads it
    let mut short = large("s");
    short.raw_data = Some(vec![0; 16_382].into());
    let mut proto = small();
    proto.graph.as_mut().unwrap().initializer.extend([
        floats.clone(),
        doubles,
        whole_numbers,
        short,
    ]);
    proto.graph.as_mut().unwrap().initializer[1].name = Some("floats".into());
    std::fs::write(&path, proto.encode_to_vec()).unwrap();
    let (model, whole) = (Model::read(&path).unwrap(), Model::from_proto(proto).unwrap());
    let left: Vec<&str> = model
        .graph()
        .initializer
        .iter()
        .filter(|t| external::is_external(t))
        .map(TensorProto::name)
        .collect();
    assert_eq!(left, ["floats", "d"]);
    for name in ["floats", "d", "i"] {
        assert_eq!(model.initializer(name).unwrap(), whole.initializer(name).unwrap(), "{name}");
    }
    assert!(model.initializer("s").unwrap_err().chain().contains("found 16382"));
}

#[test]
fn a_comment_in_another_encoding_is_left_out() {
    let mut proto = small();
    proto.doc_string = Some("caf!".into());
    proto.graph.as_mut().unwrap().node[0].doc_string = Some("caf!".into());
    let mut bytes = proto.encode_to_vec();
    for at in 0..bytes.len() - 3 {
        if &bytes[at..at + 4] == b"caf!" {
            bytes[at + 3] = 0xe9;
        }
    }
    let model = Model::from_bytes(bytes, None).unwrap();
    assert_eq!(*model.proto(), small());
    assert_eq!(Model::from_bytes(model.bytes().to_vec(), None).unwrap().proto(), model.proto());
}

#[cfg(unix)]
#[test]
fn a_hub_s_cache_is_followed_to_its_blobs_and_no_further() {
    use std::os::unix::fs::symlink;
    let top = tempfile::tempdir().unwrap();
    let hub = top.path().join("models--a--b");
    let snapshot = hub.join("snapshots/0123/onnx");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(hub.join("blobs")).unwrap();
    let plain = Model::read(&committed("external.onnx")).unwrap();
    std::fs::copy(committed("external.onnx"), hub.join("blobs/aa")).unwrap();
    std::fs::copy(committed("external.data"), hub.join("blobs/bb")).unwrap();
    symlink("../../../blobs/aa", snapshot.join("model.onnx")).unwrap();
    symlink("../../../blobs/bb", snapshot.join("external.data")).unwrap();
    let model = Model::read(&snapshot.join("model.onnx")).unwrap();
    assert_eq!(
        model.sha256(),
        plain.sha256(),
        "the names on the hub's disk are no part of a model"
    );
    assert_eq!(model.initializer("fc").unwrap(), plain.initializer("fc").unwrap());
    assert_eq!(model.folder(), Some(hub.canonicalize().unwrap().as_path()));
    let told = |bytes: Vec<u8>| Model::from_bytes(bytes, Some(hub.clone())).unwrap();
    assert_eq!(
        told(model.whole_with_outputs(&[]).unwrap()).initializer("fc").unwrap(),
        plain.initializer("fc").unwrap()
    );

    // a weight in the model's own blob, too
    let (_folder, file) = large_file("m.onnx");
    std::fs::copy(&file, hub.join("blobs/cc")).unwrap();
    symlink("../../../blobs/cc", snapshot.join("whole.onnx")).unwrap();
    let linked = Model::read(&snapshot.join("whole.onnx")).unwrap();
    assert!(linked.bytes().len() < 1000);
    assert_eq!(
        linked.initializer("w").unwrap(),
        Model::read(&file).unwrap().initializer("w").unwrap()
    );

    std::fs::copy(committed("external.data"), top.path().join("outside")).unwrap();
    std::fs::remove_file(snapshot.join("external.data")).unwrap();
    symlink("../../../../outside", snapshot.join("external.data")).unwrap();
    let text = message(Model::read(&snapshot.join("model.onnx")));
    assert!(
        text.contains("external.data: a link that leads out of") && text.contains("outside"),
        "{text}"
    );
}

#[cfg(unix)]
#[test]
fn a_linked_model_finds_its_data_beside_the_file_itself() {
    let top = tempfile::tempdir().unwrap();
    let (own, elsewhere) = (top.path().join("own"), top.path().join("elsewhere"));
    std::fs::create_dir_all(&own).unwrap();
    std::fs::create_dir_all(&elsewhere).unwrap();
    std::fs::copy(committed("external.onnx"), own.join("m.onnx")).unwrap();
    std::fs::copy(committed("external.data"), own.join("external.data")).unwrap();
    std::os::unix::fs::symlink("../own/m.onnx", elsewhere.join("link.onnx")).unwrap();
    let (model, plain) = (
        Model::read(&elsewhere.join("link.onnx")).unwrap(),
        Model::read(&own.join("m.onnx")).unwrap(),
    );
    assert_eq!(model.initializer("fc").unwrap(), plain.initializer("fc").unwrap());
    assert_eq!(model.sha256(), plain.sha256());
}

#[test]
fn names_of_data_files_are_taken_as_they_are() {
    for name in ["my data (1).bin", "a%20b.bin", "sub/é 层.bin"] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("sub")).unwrap();
        std::fs::write(folder.path().join(name), 7.5f32.to_le_bytes().repeat(2)).unwrap();
        let mut proto = small();
        proto.graph.as_mut().unwrap().initializer[0] = TensorProto {
            raw_data: None,
            data_location: Some(DataLocation::External as i32),
            external_data: vec![StringStringEntryProto {
                key: Some("location".into()),
                value: Some(name.into()),
            }],
            ..weight("w")
        };
        let path = folder.path().join("m.onnx");
        std::fs::write(&path, proto.encode_to_vec()).unwrap();
        let value = Model::read(&path).unwrap().initializer("w").unwrap().unwrap();
        assert_eq!(value.values(), &Values::F32(vec![7.5, 7.5]), "{name}");
    }
}

#[test]
fn what_is_no_tensor_is_named_by_its_type() {
    use proto::{TypeProto, type_proto};
    let type_proto = |value| Some(TypeProto { value: Some(value), ..Default::default() });
    let strings = || {
        type_proto(type_proto::Value::TensorType(type_proto::Tensor {
            elem_type: Some(DataType::String as i32),
            shape: None,
        }))
    };
    let sequence = type_proto(type_proto::Value::SequenceType(Box::new(type_proto::Sequence {
        elem_type: strings().map(Box::new),
    })));
    let model = edited(|g| {
        g.input[0].r#type = strings();
        g.output[0].r#type = sequence;
    })
    .unwrap();
    assert_eq!((model.inputs()[0].kind.as_str(), model.inputs()[0].has_shape), ("string", false));
    assert_eq!(model.outputs()[0].kind, "seq(string)");
}

#[test]
fn whatever_bytes_a_file_has_its_weights_are_left_in_it_or_it_is_no_model() {
    let (_folder, path) = large_file("m.onnx");
    let whole = std::fs::read(&path).unwrap();
    let edit = Edit { file: Some("m.onnx".into()), ..Edit::default() };
    let weight = weight_at(&whole);
    // heads and lengths, not the values between them
    for at in (0..whole.len()).filter(|at| !weight.iter().any(|values| values.contains(at))) {
        for flip in [1u8, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            let left = weights::edited(&bytes, &edit);
            if let (Ok(model), Some(left)) = (Model::from_bytes(bytes, None), left) {
                let left = proto::ModelProto::decode(&*left).unwrap();
                let graph = left.graph.unwrap_or_default();
                assert_eq!(graph.node.len(), model.graph().node.len(), "{at}");
                assert_eq!(graph.initializer.len(), model.graph().initializer.len(), "{at}");
            }
        }
    }
    for keep in (0..200).chain(whole.len() - 200..whole.len()) {
        drop(weights::edited(&whole[..keep], &edit));
    }
}

/// Where the values of the two large weights are.
fn weight_at(bytes: &[u8]) -> [std::ops::Range<usize>; 2] {
    let values = large("").raw_data.unwrap();
    let find = |from: usize| {
        from + bytes[from..].windows(values.len()).position(|window| window == &values[..]).unwrap()
    };
    let (first, second) = (find(0), find(find(0) + values.len()));
    [first + 8..first + values.len(), second + 8..second + values.len()]
}

#[test]
fn graphs_in_graphs_end_somewhere() {
    let mut graph = GraphProto { output: vec![named("y")], ..Default::default() };
    for _ in 0..200 {
        let mut outer = node("If", &[], &["y"]);
        outer.attribute.push(AttributeProto { g: Some(graph), ..Default::default() });
        graph = GraphProto { node: vec![outer], output: vec![named("y")], ..Default::default() };
    }
    let bytes = ModelProto { graph: Some(graph), ..Default::default() }.encode_to_vec();
    assert!(weights::edited(&bytes, &Edit::default()).is_none());
    assert!(message(Model::from_bytes(bytes, None)).contains("not an ONNX model"));
}
