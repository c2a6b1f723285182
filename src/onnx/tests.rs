use super::*;
use crate::array::Values;
use proto::tensor_proto::{DataLocation, DataType};
use proto::{AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto, TensorProto, ValueInfoProto};

fn named(name: &str) -> ValueInfoProto {
    ValueInfoProto { name: Some(name.into()), ..Default::default() }
}

fn node(op: &str, input: &[&str], output: &[&str]) -> NodeProto {
    let strings = |names: &[&str]| names.iter().map(|&n| n.to_owned()).collect();
    NodeProto { op_type: Some(op.into()), input: strings(input), output: strings(output), ..Default::default() }
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
    // an initialiser that is listed as an input is none
    assert_eq!(model.inputs().iter().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["x"]);
    assert_eq!(model.initializer("w").unwrap().unwrap().values(), &Values::F32(vec![1.0, 2.0]));
    assert_eq!(model.initializer("x").unwrap(), None);
}

#[test]
fn bytes_that_are_no_model_are_refused() {
    let refused = |bytes: &[u8]| message(Model::from_bytes(bytes.to_vec(), None));
    assert!(refused(b"").contains("empty"));
    assert!(refused(b"\x89PNG\r\n\x1a\n and more").contains("not an ONNX model"));
    assert!(refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n").contains("Git LFS"));
    assert!(refused(b"\x08\x08").contains("expected a graph"));
    let whole = Model::from_proto(small()).unwrap().bytes().to_vec();
    for keep in 0..whole.len() {
        if let Ok(model) = Model::from_bytes(whole[..keep].to_vec(), None) {
            // a cut between two fields leaves a valid message; it must still be a whole graph
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
                let names: Vec<String> = model.graph().initializer.iter().map(|t| t.name().to_owned()).collect();
                for name in names {
                    drop(model.initializer(&name));
                }
                drop(tap::candidates(&model, &std::collections::HashMap::new()));
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
    assert!(message(edited(|g| g.output.clear())).contains("outputs"));
    // an empty name is an optional input or output that is absent
    edited(|g| g.node[1].input.push(String::new())).unwrap();
}

#[test]
fn subgraphs_see_what_stands_before_their_node() {
    let branch = |reads: &str| {
        let body = GraphProto { node: vec![node("Relu", &[reads], &["inner"])], output: vec![named("inner")], ..Default::default() };
        let mut condition = node("If", &["x"], &["z"]);
        condition.attribute.push(AttributeProto { name: Some("then_branch".into()), g: Some(body), ..Default::default() });
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
    // ONNX Runtime would take these silently
    for name in ["x", "w", "Y", ""] {
        assert!(model.with_outputs(&[name.to_owned()]).unwrap_err().to_string().contains("no node"), "{name}");
    }
    assert!(model.with_outputs(&["Y".into()]).unwrap_err().find_hint().unwrap().contains("`y`"));
}

#[test]
fn declared_shapes_are_read() {
    let model = Model::read(&committed("uint8.onnx")).unwrap();
    let [input] = &model.inputs()[..] else { panic!() };
    assert_eq!(input.dtype, Some(Dtype::U8));
    assert_eq!(input.shape, [Dim::Symbol("N".into()), Dim::Fixed(3), Dim::Symbol("H".into()), Dim::Symbol("W".into())]);
    assert_eq!(model.opset(), 7);
    assert_eq!(cost::parameters(&model), 4 * 3 * 9 + 8 + 20 + 5 + 1);
}

#[test]
fn metadata_is_found_by_key() {
    let mut proto = small();
    proto.metadata_props.push(StringStringEntryProto { key: Some("k".into()), value: Some("v".into()) });
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
    assert!(error.chain().contains("no such file") && error.find_hint().is_some(), "{}", error.chain());
    assert!(message(Model::from_bytes(std::fs::read(&copy).unwrap(), None)).contains("not read from a folder"));
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
        let entry = |&(key, value): &(&str, &str)| StringStringEntryProto { key: Some(key.into()), value: Some(value.into()) };
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
        (vec![("location", "data"), ("offset", "18446744073709551615")], "found a file of 64 bytes"),
        (vec![("location", "data"), ("length", "9")], "expected 8 bytes"),
        (vec![("location", "data"), ("offset", "-1")], "expected a number"),
    ] {
        let text = message(read(&entries));
        assert!(text.contains(expected) && text.contains("`w`"), "{entries:?}: {text}");
    }
    #[cfg(unix)]
    for location in ["link", "up/secret"] {
        assert!(message(read(&[("location", location)])).contains("symbolic link"), "{location}");
    }
}
