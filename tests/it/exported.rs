//! Students as PyTorch's exporters write them train as the modules that they were: the same
//! parameters by name, and gradients equal to PyTorch's in float64. The files and the values are
//! written by `scripts/make-students.py`.

#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a test stops at what it did not expect; small counts"
)]

use crate::support::{Ran, Sandbox, committed, program, write_npz};
use candle_core::{DType, Device, Tensor};
use nst_cache::array::{Array, Dtype, Values};
use nst_cache::onnx::Model;
use nst_cache::student::{Executor, FoldedNorms, ImportOptions, Mode, Student};
use std::collections::BTreeMap;
use std::path::PathBuf;

const BATCH: usize = 4;
const CLASSES: usize = 5;

#[derive(serde::Deserialize)]
struct Expected {
    loss: f64,
    /// Norm of the gradient and its product with cos(0), cos(1), …
    gradients: BTreeMap<String, [f64; 2]>,
}

fn path(name: &str) -> PathBuf {
    committed("tests/data/exported").join(name)
}

fn import(name: &str, folded_norms: FoldedNorms) -> nst_cache::error::Result<Student> {
    let model = Model::read(&path(&format!("{name}.onnx")))?;
    let options = ImportOptions {
        dtype: DType::F64,
        executor: Executor::Reference,
        folded_norms,
        ..ImportOptions::default()
    };
    Student::import(&model, &options)
}

/// The loss of the batch that the script uses, and what the gradients come to.
fn step(student: &Student) -> (f64, BTreeMap<String, [f64; 2]>) {
    let values: Vec<f64> = (0..BATCH * 3 * 16 * 16).map(|i| (0.7 * i as f64).sin()).collect();
    let input = Tensor::from_vec(values, (BATCH, 3, 16, 16), &Device::Cpu).unwrap();
    let pass = student.forward(&[input], Mode::Train, &[], 0).unwrap();
    let logits: Vec<Vec<f64>> = pass.value(student.logits()).unwrap().to_vec2().unwrap();
    let mut loss = 0.0;
    let mut seed = Vec::new();
    for (sample, row) in logits.iter().enumerate() {
        let sum: f64 = row.iter().map(|v| v.exp()).sum();
        let label = sample % CLASSES;
        loss += (sum.ln() - row[label]) / BATCH as f64;
        seed.extend(row.iter().enumerate().map(|(class, v)| {
            (v.exp() / sum - f64::from(u8::from(class == label))) / BATCH as f64
        }));
    }
    let seed = Tensor::from_vec(seed, (BATCH, CLASSES), &Device::Cpu).unwrap();
    let gradients = pass.backward(vec![(student.logits(), seed)]).unwrap();
    let of = |gradient: Option<Tensor>| {
        let flat: Vec<f64> =
            gradient.map_or_else(Vec::new, |g| g.flatten_all().unwrap().to_vec1().unwrap());
        let product = flat.iter().enumerate().map(|(i, g)| g * (i as f64).cos()).sum();
        [flat.iter().map(|g| g * g).sum::<f64>().sqrt(), product]
    };
    let names = student.parameters().iter().map(|p| p.name.clone());
    (loss, names.zip(gradients.into_iter().map(of)).collect())
}

/// Holds a student's step against PyTorch's.
fn trains_as_pytorch(name: &str, student: &Student, tolerance: f64) {
    let expected: Expected =
        serde_json::from_str(&std::fs::read_to_string(path(&format!("{name}.json"))).unwrap())
            .unwrap();
    let (loss, gradients) = step(student);
    assert!((loss - expected.loss).abs() < tolerance, "{name}: {loss} {}", expected.loss);
    let names = |of: &BTreeMap<String, [f64; 2]>| of.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&gradients), names(&expected.gradients), "{name}");
    for (parameter, theirs) in &expected.gradients {
        let ours = gradients[parameter];
        // a bias before a norm has no gradient but rounding
        let scale = theirs[0].max(1e-3);
        for (a, b) in ours.iter().zip(theirs) {
            assert!((a - b).abs() < tolerance * scale, "{name} {parameter}: {ours:?} {theirs:?}");
        }
    }
}

#[test]
fn what_trains_is_what_pytorch_calls_a_parameter() {
    for name in [
        "standardized",
        "blur",
        "scalars",
        "frozen_norms",
        "part_frozen",
        "positions",
        "tied",
        "tokens_whole",
        "norms_whole",
        "parts_whole",
        "group_norm_whole",
        "blur_dynamo",
        "scalars_dynamo",
    ] {
        trains_as_pytorch(name, &import(name, FoldedNorms::Ask).unwrap(), 1e-6);
    }
}

#[test]
fn what_the_exporters_optimizer_merged_or_left_out_is_put_back() {
    for name in ["tokens_dynamo", "tied_dynamo", "twice_dynamo", "group_norm_dynamo"] {
        let student = import(name, FoldedNorms::Ask).unwrap();
        trains_as_pytorch(name, &student, 1e-6);
        let said = student.notes().iter().any(|n| n.contains("optimizer took out"));
        // of a group norm it has the weights in another form alone
        assert_eq!(said, name != "group_norm_dynamo", "{name}");
    }
}

#[test]
fn fresh_norms_that_were_folded_away_are_put_back() {
    let in_part = import("norms_folded_in_part", FoldedNorms::Ask).unwrap();
    trains_as_pytorch("norms_folded_in_part", &in_part, 1e-4);
    // of a norm before a linear layer without a bias
    let vectors = import("vectors_dynamo", FoldedNorms::Ask).unwrap();
    trains_as_pytorch("vectors_dynamo", &vectors, 1e-4);
    for name in ["norms_folded", "norms_folded_biased"] {
        let student = import(name, FoldedNorms::Ask).unwrap();
        // the folded weights are single
        trains_as_pytorch(name, &student, 1e-4);
        let notes = student.notes().join("\n");
        assert!(notes.contains("2 batch norms folded into convolutions"), "{notes}");
        assert_eq!(student.buffers().len(), 4);
        let again = Student::import(&student.export(&[]).unwrap(), &ImportOptions::default());
        let again = again.unwrap();
        assert_eq!((again.buffers().len(), again.notes().len()), (4, 1), "{:?}", again.notes());
        let left = import(name, FoldedNorms::Leave).unwrap();
        assert!(left.buffers().is_empty());
    }
}

#[test]
fn norms_that_had_learned_are_refused_or_new_on_request() {
    let refusal = import("norms_trained", FoldedNorms::Ask).unwrap_err();
    assert!(refusal.to_string().contains("2 batch norms"), "{refusal}");
    let hint = refusal.find_hint().unwrap();
    assert!(hint.contains("optimize=False") && hint.contains("--insert-batchnorm"), "{hint}");
    let inserted = import("norms_trained", FoldedNorms::Insert).unwrap();
    let left = import("norms_trained", FoldedNorms::Leave).unwrap();
    assert_eq!((inserted.buffers().len(), left.buffers().len()), (4, 0));
    // the folded biases of two convolutions, two weights, and the head
    assert_eq!(left.parameters().len(), 6);
    // what it computes stays
    let input = Tensor::arange(0f64, 3.0 * 256.0, &Device::Cpu).unwrap();
    let input = (input.sin().unwrap()).reshape((1, 3, 16, 16)).unwrap();
    let logits = |student: &Student| -> Vec<f64> {
        let pass = student.forward(std::slice::from_ref(&input), Mode::Eval, &[], 0).unwrap();
        pass.value(student.logits()).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    };
    for (a, b) in logits(&inserted).iter().zip(logits(&left)) {
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
}

#[test]
fn a_batch_in_a_reshape_is_taken_out() {
    for name in ["baked", "baked_dynamo"] {
        let student = import(name, FoldedNorms::Ask).unwrap();
        trains_as_pytorch(name, &student, 1e-6);
        let exported = student.export(&[]).unwrap();
        let again = Student::import(&exported, &ImportOptions::default()).unwrap();
        assert!(!again.notes().iter().any(|note| note.contains("taken out")));
    }
}

#[test]
fn inspect_lists_what_trains_and_why() {
    let inspect = |line: &str| Ran::new(line, program(&path(""), line).output().unwrap()).expect(0);
    let lines = inspect("inspect blur.onnx --parameters").text();
    assert!(lines.contains("3.filt") && lines.contains("a buffer, by its name"), "{lines}");
    let document = inspect("inspect positions.onnx --json").json();
    let tensors = document["tensors"].as_array().unwrap();
    let pos = tensors.iter().find(|tensor| tensor["name"] == "pos").unwrap();
    assert_eq!((&pos["trains"], &pos["guessed"]), (&false.into(), &true.into()));
    let lines = inspect("inspect norms_trained.onnx").text();
    assert!(lines.contains("optimize=False") && lines.contains("trainable   no"), "{lines}");
}

#[test]
fn a_student_has_to_give_logits_of_the_classes() {
    let folder = &Sandbox::with_runtime();
    let floats = (0..16 * 3 * 16 * 16).map(|i| (0.7 * i as f32).sin()).collect();
    let images = Array::new(vec![16, 3, 16, 16], Values::F32(floats)).unwrap();
    let labels = Array::new(vec![16], Values::I64((0..16).map(|i| i % 8).collect())).unwrap();
    write_npz(&folder.join("d.npz"), &[("input", &images), ("labels", &labels)]);
    let train = |name: &str, more: &str| {
        let student = path(name);
        let line = format!("train {} --data npz:d.npz --epochs 1 {more}", student.display());
        let output = folder.run(&line);
        (output.status, output.text())
    };
    let (code, said) = train("sigmoid.onnx", "-o a");
    assert!(code == Some(2) && said.contains("ends in a sigmoid"), "{said}");
    let (code, said) = train("blur.onnx", "-o b");
    assert!(code == Some(2) && said.contains("--head 8"), "{said}");
    assert!(!folder.join("b").exists());
    let (code, said) = train("blur.onnx", "--head 8 -o b");
    assert!(code == Some(0) && said.contains("[8, 8] in place of [5, 8]"), "{said}");
    let (code, said) = train("half.onnx", "--head 9 -o c");
    assert!(code == Some(0) && said.contains("9 logits and the data 8 classes"), "{said}");
    let trained = Model::read(&folder.join("c/student.onnx")).unwrap();
    assert_eq!(trained.inputs()[0].dtype, Some(Dtype::F16));
}
