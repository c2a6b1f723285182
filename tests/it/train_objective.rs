//! The gradient of a whole loss with respect to the student's weights, through the graph, against
//! central differences in f64.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use candle_core::{DType, Device, Tensor};
use nst_cache::data;
use nst_cache::monitor::Silent;
use nst_cache::recipe::{CriterionRecipe, Teaching, Train};
use nst_cache::statistic::Statistic;
use nst_cache::student::{ImportOptions, Mode, Student, preset};
use nst_cache::trainer::loss::{Learnable, Objective};
use nst_cache::trainer::pairing::Pair;
use nst_cache::trainer::schedule::Clock;
use nst_cache::trainer::source::{Batch, DataSource, Source, TeacherLogits};

/// Numbers in −1…1 that are the same everywhere.
fn noise(shape: &[usize], seed: u32) -> Tensor {
    let mut state = seed;
    let values: Vec<f64> = (0..shape.iter().product())
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1 << 23) - 1.0
        })
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

#[test]
fn ce_kd_and_nst_together_match_central_differences() {
    let model = preset::build("resnet8", 5, [3, 16, 16], 1).unwrap();
    let student =
        Student::import(&model, &ImportOptions { dtype: DType::F64, ..ImportOptions::default() })
            .unwrap();
    let terms: Vec<CriterionRecipe> = [
        "ce:weight=0.3",
        "kd:weight=0.9,temperature=4",
        "nst:weight=50",
        "nst-gauss:weight=5,sigma=1",
    ]
    .map(|t| t.parse().unwrap())
    .into();
    // the deepest map takes part in two terms, and in the logits
    let pair = |teacher: &str, student: &str| Pair {
        teacher: teacher.into(),
        teacher_shape: vec![0; 3],
        teacher_stored: vec![(Statistic::Features, 1)],
        student: student.into(),
        student_shape: vec![0; 3],
        student_channels_last: false,
    };
    let nst = vec![pair("t1", "layer1"), pair("t2", "layer2"), pair("t3", "layer3")];
    let objective = Objective::new(
        &terms,
        &[Vec::new(), Vec::new(), nst, vec![pair("t3", "layer3")]],
        0.1,
        &student,
    )
    .unwrap();
    assert_eq!(objective.taps, ["taps/t1/features", "taps/t2/features", "taps/t3/features"]);
    let batch = Batch {
        rows: vec![0, 1, 2],
        labels: vec![0, 4, 2],
        mixed: None,
        inputs: vec![noise(&[3, 3, 16, 16], 1)],
        logits: Some(TeacherLogits::Dense((noise(&[3, 5], 2) * 3.0).unwrap())),
        logits_mask: None,
        taps: vec![noise(&[3, 6, 16, 16], 3), noise(&[3, 7, 8, 8], 4), noise(&[3, 9, 8, 8], 5)],
    };
    let clock = Clock { step: 0, steps_per_epoch: 1, total_steps: 1 };
    let dataset = data::open(&"fashion-mnist".parse().unwrap(), "train", &Silent).unwrap();
    let source = Source::Data(DataSource::evaluation(dataset.as_ref(), None, Vec::new()));
    let mut learnable = Learnable::new(&objective, &Train::default(), &source, &Silent).unwrap();
    let mut evaluate = || {
        let pass = student.forward(&batch.inputs, Mode::Train, &objective.keep, 0).unwrap();
        let value = objective.evaluate(&pass, &batch, clock, &mut learnable).unwrap();
        (pass, value)
    };
    let (pass, value) = evaluate();
    let weighted: f64 =
        objective.terms.iter().zip(&value.parts).map(|(t, p)| t.recipe.weight * p.unwrap()).sum();
    assert!((weighted - value.total).abs() < 1e-12);
    let gradients = pass.backward(value.seeds).unwrap();

    for (index, (parameter, gradient)) in student.parameters().iter().zip(&gradients).enumerate() {
        let start = parameter.var.as_tensor().copy().unwrap();
        let direction = noise(start.dims(), 100 + u32::try_from(index).unwrap());
        let mut moved = |by: f64| {
            parameter.var.set(&(&start + (&direction * by).unwrap()).unwrap()).unwrap();
            let total = evaluate().1.total;
            parameter.var.set(&start).unwrap();
            total
        };
        let step = 1e-6;
        let slope = (moved(step) - moved(-step)) / (2.0 * step);
        let along = (gradient.as_ref().unwrap() * &direction)
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f64>()
            .unwrap();
        assert!(
            (slope - along).abs() < 1e-5 * (1.0 + slope.abs()),
            "{}: slope {slope}, gradient {along}",
            parameter.name
        );
    }
}

#[test]
fn terms_of_one_name_are_told_apart() {
    let model = preset::build("resnet8", 5, [3, 16, 16], 1).unwrap();
    let student = Student::import(&model, &ImportOptions::default()).unwrap();
    let recipe = Train {
        criteria: ["nst", "nst:degree=3", "kd"].map(|t| t.parse().unwrap()).into(),
        ..Train::default()
    };
    let terms = recipe.terms(Teaching::Maps);
    let objective = Objective::new(&terms, &vec![Vec::new(); terms.len()], 0.0, &student).unwrap();
    let names: Vec<&str> = objective.terms.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["ce", "nst-poly", "nst-poly#2", "kd"]);
    assert!(objective.teacher_logits);
}
