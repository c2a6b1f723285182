//! An exported student is the same function, reads back as the same student, and has the same bytes
//! every time.

#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a test stops at what it did not expect; small counts"
)]

use crate::support::committed;
use candle_core::{DType, Device, Tensor};
use nst_cache::onnx::{Dim, Model};
use nst_cache::student::{ImportOptions, Mode, Student};
use std::path::PathBuf;

fn graphs() -> Vec<PathBuf> {
    let folder = committed("tests/data/students");
    let mut graphs: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "onnx"))
        .collect();
    graphs.sort();
    assert!(!graphs.is_empty(), "the committed cases are missing");
    graphs
}

/// A batch for the student's declared input, another one for every call.
fn batch(student: &Student, rows: usize, salt: usize) -> Vec<Tensor> {
    let input = |shape: &[Dim]| {
        let sizes: Vec<usize> = shape
            .iter()
            .enumerate()
            .map(|(i, d)| if let (Dim::Fixed(n), true) = (d, i > 0) { *n } else { rows })
            .collect();
        let count: usize = sizes.iter().product();
        let values: Vec<f32> =
            (0..count).map(|i| ((i * 7919 + salt * 104_729) % 1013) as f32 / 506.5 - 1.0).collect();
        Tensor::from_vec(values, sizes, &Device::Cpu).unwrap()
    };
    student.inputs().iter().map(|v| input(&v.shape)).collect()
}

fn logits(student: &Student, inputs: &[Tensor], mode: Mode) -> Vec<f32> {
    let pass = student.forward(inputs, mode, &[], 0).unwrap();
    pass.value(student.logits()).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Moves every weight and running statistic away from what the file holds, so that an export of the
/// old values cannot pass.
fn train_a_little(student: &Student) {
    let inputs = batch(student, 6, 1);
    let pass = student.forward(&inputs, Mode::Train, &[], 0).unwrap();
    let seed = pass.value(student.logits()).unwrap().clone();
    for (parameter, gradient) in
        student.parameters().iter().zip(pass.backward(vec![(student.logits(), seed)]).unwrap())
    {
        let moved = (parameter.var.as_tensor().copy().unwrap() * 0.97).unwrap();
        let moved = match gradient {
            Some(g) => (moved - (g * 0.01).unwrap()).unwrap(),
            None => moved,
        };
        parameter.var.set(&moved).unwrap();
    }
}

#[test]
fn an_export_is_the_trained_function_in_inference_form() {
    for path in graphs() {
        let student =
            Student::import(&Model::read(&path).unwrap(), &ImportOptions::default()).unwrap();
        train_a_little(&student);
        let exported =
            student.export(&[("b".into(), "2".into()), ("a".into(), "1".into())]).unwrap();
        assert_eq!(
            exported.bytes(),
            student.export(&[("a".into(), "1".into()), ("b".into(), "2".into())]).unwrap().bytes(),
            "{path:?}"
        );
        assert_eq!(exported.metadata("a"), Some("1"));
        for node in &exported.graph().node {
            assert_ne!(node.op_type(), "Dropout", "{path:?}");
            if node.op_type() == "BatchNormalization" {
                assert_eq!(node.output.len(), 1, "{path:?}");
                assert!(
                    !node.attribute.iter().any(|a| a.name() == "training_mode" && a.i() != 0),
                    "{path:?}"
                );
            }
        }
        for value in exported.inputs().iter().chain(&exported.outputs()) {
            assert_eq!(value.shape.first(), Some(&Dim::Symbol("batch".into())), "{path:?}");
        }
        let again = Student::import(&exported, &ImportOptions::default()).unwrap();
        let names = |s: &Student| {
            s.parameters()
                .iter()
                .map(|p| p.name.clone())
                .chain(s.buffers().iter().map(|b| b.name.clone()))
                .collect::<Vec<_>>()
        };
        assert_eq!(names(&again), names(&student), "{path:?}");
        let inputs = batch(&student, 5, 2);
        let expected = logits(&student, &inputs, Mode::Eval);
        assert_eq!(logits(&again, &inputs, Mode::Eval), expected, "{path:?}");
        assert_eq!(
            logits(&again, &inputs, Mode::AsWritten),
            expected,
            "{path:?}: the graph as it stands"
        );
    }
}

#[test]
fn statistics_merged_with_parameters_by_an_exporter_are_their_own() {
    let path = committed("tests/data/students/fresh_cnn.onnx");
    let student = Student::import(&Model::read(&path).unwrap(), &ImportOptions::default()).unwrap();
    let exported = student.export(&[]).unwrap();
    for (name, expected) in [("layer2.0.bn2.weight", true), ("layer2.0.bn2.running_var", false)] {
        assert_eq!(student.parameters().iter().any(|p| p.name == name), expected, "{name} trains");
        assert_eq!(
            student.buffers().iter().any(|b| b.name == name),
            !expected,
            "{name} is a statistic"
        );
        assert!(
            exported.initializer(name).unwrap().is_some(),
            "{name} is an initializer of its own"
        );
    }
}

#[test]
fn patterns_freeze_and_a_wrong_one_is_named() {
    let path = committed("tests/data/students/mlp_bn.onnx");
    let model = Model::read(&path).unwrap();
    let all = Student::import(&model, &ImportOptions::default()).unwrap().parameters().len();
    let options =
        |freeze: &str| ImportOptions { freeze: vec![freeze.into()], ..ImportOptions::default() };
    let student = Student::import(&model, &options("*.weight")).unwrap();
    assert!(!student.parameters().is_empty() && student.parameters().len() < all);
    assert!(student.parameters().iter().all(|p| !p.name.ends_with(".weight")));
    let inputs = batch(&student, 4, 3);
    let pass = student.forward(&inputs, Mode::Train, &[], 0).unwrap();
    let seed = pass.value(student.logits()).unwrap().clone();
    assert_eq!(
        pass.backward(vec![(student.logits(), seed)]).unwrap().len(),
        student.parameters().len()
    );
    let error = Student::import(&model, &options("nothing*")).unwrap_err();
    assert!(error.to_string().contains("nothing*"), "{error}");
}

#[test]
fn a_step_has_the_same_bits_for_any_number_of_threads() {
    let path = committed("tests/data/students/fresh_cnn.onnx");
    let model = Model::read(&path).unwrap();
    let step = |threads: usize| -> Vec<Vec<f32>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let student = Student::import(&model, &ImportOptions::default()).unwrap();
            let pass = student.forward(&batch(&student, 19, 4), Mode::Train, &[], 0).unwrap();
            let seed = pass.value(student.logits()).unwrap().clone();
            let gradients =
                pass.backward(vec![(student.logits(), seed)]).unwrap().into_iter().flatten();
            gradients
                .map(|g| g.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap())
                .collect()
        })
    };
    assert_eq!(step(1), step(3));
}

#[test]
fn an_unsupported_operator_is_listed_with_its_node() {
    let path = committed("tests/data/students/mlp_bn.onnx");
    let mut proto = Model::from_bytes(std::fs::read(&path).unwrap(), None).unwrap().proto().clone();
    let node =
        proto.graph.as_mut().unwrap().node.iter_mut().find(|n| n.op_type() == "Relu").unwrap();
    node.op_type = Some("Hardmax".into());
    node.name = Some("odd".into());
    let model = Model::from_proto(proto).unwrap();
    let error = Student::import(&model, &ImportOptions::default()).unwrap_err().to_string();
    assert!(error.contains("Hardmax") && error.contains("odd"), "{error}");
    let check = Student::check(&model).unwrap();
    assert_eq!(check.blockers.len(), 1);
    assert_eq!(check.blockers[0].1, "Hardmax");
}
