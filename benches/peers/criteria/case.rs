//! One criterion with random tensors to compare, through the trainer's own objective: what is
//! measured is what a run computes.

use crate::synthetic::{self, Synthetic};
use candle_core::{DType, Device, Tensor};
use clap::ValueEnum;
use half::f16;
use nst_cache::array::Dtype;
use nst_cache::cache::Cache;
use nst_cache::criterion::papers::ofd;
use nst_cache::criterion::{Method, Side};
use nst_cache::data::Take;
use nst_cache::error::{Error, Result};
use nst_cache::monitor::Monitor;
use nst_cache::onnx::Model;
use nst_cache::onnx::proto::{
    GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto,
    ValueInfoProto, tensor_proto::DataType, tensor_shape_proto, type_proto,
};
use nst_cache::recipe::{CriterionRecipe, Train};
use nst_cache::statistic::Statistic;
use nst_cache::student::{Executor, ImportOptions, Mode, Student};
use nst_cache::trainer::loss::{Learnable, Objective, Value};
use nst_cache::trainer::pairing::{StudentTap, Taps, TeacherTap};
use nst_cache::trainer::schedule::Clock;
use nst_cache::trainer::source::{Batch, CacheSource, Source, TeacherLogits};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// The shapes that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum Shapes {
    #[value(name = "resnet32x4-resnet8x4")]
    #[serde(rename = "resnet32x4-resnet8x4")]
    Equal,
    #[value(name = "wrn-40-2-wrn-40-1")]
    #[serde(rename = "wrn-40-2-wrn-40-1")]
    Unequal,
    #[value(name = "wide")]
    #[serde(rename = "wide")]
    Wide,
}

/// Samples of CIFAR-100's training split, which CRD remembers.
const SAMPLES: usize = 50_000;
const CLASSES: usize = 100;

impl Shapes {
    /// Channels, height and width of the teacher's stages, and the same of the student's.
    fn stages(self) -> [&'static [[usize; 3]]; 2] {
        match self {
            Self::Equal => [&[[64, 32, 32], [128, 16, 16], [256, 8, 8]]; 2],
            Self::Unequal => [
                &[[32, 32, 32], [64, 16, 16], [128, 8, 8]],
                &[[16, 32, 32], [32, 16, 16], [64, 8, 8]],
            ],
            Self::Wide => [&[[256, 32, 32]]; 2],
        }
    }

    pub fn about(self) -> &'static str {
        match self {
            Self::Equal => "resnet32x4 to resnet8x4 on CIFAR-100",
            Self::Unequal => "WRN-40-2 to WRN-40-1 on CIFAR-100",
            Self::Wide => "maps of 256 channels of 32x32",
        }
    }

    /// Whether a method can compare these shapes: FSP asks for two layers and for the same
    /// channels, as does what has a projector that is off.
    pub fn allows(self, method: &Method) -> bool {
        let [teacher, student] = self.stages();
        let projects = method.settings().is_ok_and(|settings| settings["projector"] == false);
        match method.spec().name {
            "fsp" => teacher.len() > 1 && teacher == student,
            _ => !projects || teacher == student,
        }
    }

    /// The taps of both sides as a cache and a student's graph would give them; the vector is the
    /// pooled last map.
    fn taps(self) -> Taps {
        let [teachers, students] = self.stages();
        let teacher = |alias: String, stage, shape: Vec<usize>| {
            let bytes = shape.iter().product::<usize>() * Dtype::F16.size();
            TeacherTap {
                tensor: alias.clone(),
                alias,
                stage,
                shape,
                stored: vec![(Statistic::Features, bytes)],
                output: false,
            }
        };
        let student = |tensor: String, stage, shape: Vec<usize>| StudentTap {
            tensor,
            stage,
            shape,
            suggested: true,
            output: false,
            channels_last: false,
        };
        let vector = |stages: &[[usize; 3]]| stages.last().map(|stage| vec![stage[0]]);
        let maps = |stages: &'static [[usize; 3]]| {
            (1..).zip(stages).map(|(stage, shape)| (stage, shape.to_vec()))
        };
        Taps {
            other_classes: false,
            sparse_logits: None,
            teacher_maps: maps(teachers)
                .map(|(stage, shape)| teacher(format!("stage{stage}"), Some(stage), shape))
                .collect(),
            teacher_whole: Vec::new(),
            teacher_logits: None,
            student_whole: Vec::new(),
            student_logits: None,
            teacher_vectors: vector(teachers)
                .into_iter()
                .map(|shape| teacher("pooled".to_owned(), None, shape))
                .collect(),
            student_maps: maps(students)
                .map(|(stage, shape)| student(format!("stage{stage}"), Some(stage), shape))
                .collect(),
            student_vectors: vector(students)
                .into_iter()
                .map(|shape| student("pooled".to_owned(), None, shape))
                .collect(),
            classes: [Some(CLASSES); 2],
        }
    }
}

/// A criterion with everything that it is computed of.
pub struct Case {
    /// Its inputs are the tensors that the criterion reads of a student.
    pub student: Student,
    pub objective: Objective,
    pub learnable: Learnable,
    pub batch: Batch,
    /// OFD's, by layer; empty for the others.
    pub margins: Vec<Tensor>,
}

impl Case {
    /// A criterion between random tensors of `rows` samples.
    ///
    /// # Errors
    /// When the criterion cannot compare these shapes.
    pub fn new(
        criterion: &CriterionRecipe,
        pair: Shapes,
        rows: usize,
        monitor: &dyn Monitor,
    ) -> Result<Self> {
        let taps = pair.taps();
        let (pairs, _) = taps.pairs(criterion)?;
        let mut shapes = vec![(SCORES.to_owned(), vec![CLASSES])];
        shapes.extend(pairs.iter().map(|pair| (pair.student.clone(), pair.student_shape.clone())));
        // dense operators: the graph hands its inputs on
        let options = ImportOptions { executor: Executor::Reference, ..ImportOptions::default() };
        let student = Student::import(&network(&shapes, rows)?, &options)?;
        let objective = Objective::new(
            std::slice::from_ref(criterion),
            std::slice::from_ref(&pairs),
            0.0,
            &student,
        )?;

        let signed = criterion.method.spec().side != Side::After;
        let mut random = ChaCha8Rng::seed_from_u64(0);
        let mut tensor = |shape: &[usize], dtype| -> Result<Tensor> {
            let shape = [&[rows], shape].concat();
            // a classifier's scores have signs too
            noise(&mut random, &shape, signed || shape.last() == Some(&CLASSES), dtype)
        };
        let inputs = student.inputs().iter().map(|input| {
            let shape = shapes.iter().find(|(name, _)| *name == input.name).map(|(_, shape)| shape);
            tensor(
                shape.ok_or_else(|| Error::input("bench criteria: an input without a shape"))?,
                DType::F32,
            )
        });
        let inputs = inputs.collect::<Result<_>>()?;
        let logits =
            objective.teacher_logits.then(|| tensor(&[CLASSES], DType::F32)).transpose()?;
        let teacher = |path: &String| {
            let pair = pairs.iter().find(|pair| Statistic::Features.path(&pair.teacher) == *path);
            let shape = &pair
                .ok_or_else(|| Error::input("bench criteria: a tap without a pair"))?
                .teacher_shape;
            // a cache's maps reach a criterion as they are stored, its vectors do not
            tensor(shape, if shape.len() == 3 { DType::F16 } else { DType::F32 })
        };
        let taps = objective.taps.iter().map(teacher).collect::<Result<_>>()?;
        let (learnable, labels, margins) = learnable(&objective, pair, rows, monitor)?;
        let batch = Batch {
            rows: (0..rows).collect(),
            labels,
            mixed: None,
            inputs,
            logits: logits.map(TeacherLogits::Dense),
            logits_mask: None,
            taps,
        };
        Ok(Self { student, objective, learnable, batch, margins })
    }

    /// The loss and its gradients. No optimizer moves anything.
    pub fn step(&mut self, step: usize) -> Result<Value> {
        let pass =
            self.student.forward(&self.batch.inputs, Mode::Train, &self.objective.keep, 0)?;
        let clock = Clock { step, steps_per_epoch: usize::MAX, total_steps: usize::MAX };
        self.objective.evaluate(&pass, &self.batch, clock, &mut self.learnable)
    }
}

/// What the criterion learns, the batch's labels, and OFD's margins: from a cache of the rows that
/// it asks about, which are all of the data set for CRD and its like, and whose maps OFD looks at.
fn learnable(
    objective: &Objective,
    pair: Shapes,
    rows: usize,
    monitor: &dyn Monitor,
) -> Result<(Learnable, Vec<i64>, Vec<Tensor>)> {
    let name = objective.terms.first().map_or("", |term| term.recipe.name());
    // what they remember grows with the data set
    let remembers = ["crd", "lightly-v1", "lightly-v3"].contains(&name);
    let samples = if remembers { SAMPLES.max(rows) } else { rows };
    let wants_maps = name == "ofd";
    let (stages, taps) =
        if wants_maps { (pair.stages()[0], &objective.taps[..]) } else { (&[][..], &[][..]) };
    let folder = tempfile::Builder::new()
        .prefix("nst-cache-bench")
        .tempdir()
        .map_err(|e| Error::input("temporary folder").because(e))?;
    let classes = i64::try_from(CLASSES).unwrap_or(i64::MAX);
    synthetic::write(
        folder.path(),
        &Synthetic {
            side: 1,
            classes,
            stages,
            signed: true,
            rows: samples,
            batch: rows,
            codec: None,
        },
    )?;
    let cache = Cache::open(folder.path())?;
    let source = Source::Cache(CacheSource::new(
        &cache,
        &["input".to_owned()],
        false,
        taps,
        Take::default(),
        0,
        false,
    )?);
    let learnable = Learnable::new(objective, &Train::default(), &source, monitor)?;
    let labels = source.labels().into_iter().take(rows).map(|(_, label)| label).collect();
    let margins = if wants_maps {
        source.batch(0, 0..rows)?.taps.iter().map(ofd::estimated_margins).collect::<Result<_>>()?
    } else {
        Vec::new()
    };
    Ok((learnable, labels, margins))
}

/// Normal numbers, or what a rectifier leaves of them.
fn noise(random: &mut ChaCha8Rng, shape: &[usize], signed: bool, dtype: DType) -> Result<Tensor> {
    let mut value = || {
        // the sum of four bytes is nearly normal
        let sum: u16 = random.random::<[u8; 4]>().into_iter().map(u16::from).sum();
        let value = (f32::from(sum) - 510.0) / 148.0;
        if signed { value } else { value.max(0.0) }
    };
    let values = 0..shape.iter().product::<usize>();
    Ok(match dtype {
        DType::F16 => Tensor::from_vec(
            values.map(|_| f16::from_f32(value())).collect::<Vec<_>>(),
            shape,
            &Device::Cpu,
        )?,
        _ => Tensor::from_vec(values.map(|_| value()).collect::<Vec<_>>(), shape, &Device::Cpu)?,
    })
}

/// The input that becomes the logits.
pub const SCORES: &str = "scores";

/// A graph that hands its inputs on; the first of them are its logits.
fn network(inputs: &[(String, Vec<usize>)], rows: usize) -> Result<Model> {
    let value = |name: &str, shape: &[usize]| {
        let dim = |size: usize| tensor_shape_proto::Dimension {
            value: i64::try_from(size).ok().map(tensor_shape_proto::dimension::Value::DimValue),
            ..Default::default()
        };
        let shape = TensorShapeProto {
            dim: std::iter::once(rows).chain(shape.iter().copied()).map(dim).collect(),
        };
        let tensor =
            type_proto::Tensor { elem_type: Some(DataType::Float.into()), shape: Some(shape) };
        let r#type =
            TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
        ValueInfoProto { name: Some(name.to_owned()), r#type: Some(r#type), ..Default::default() }
    };
    let node = NodeProto {
        op_type: Some("Identity".to_owned()),
        input: vec![SCORES.to_owned()],
        output: vec!["logits".to_owned()],
        ..Default::default()
    };
    let graph = GraphProto {
        name: Some("criterion".to_owned()),
        node: vec![node],
        input: inputs.iter().map(|(name, shape)| value(name, shape)).collect(),
        output: vec![value("logits", &[CLASSES])],
        ..Default::default()
    };
    Model::from_proto(ModelProto {
        ir_version: Some(8),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }],
        graph: Some(graph),
        ..Default::default()
    })
}
