//! Writing small ONNX graphs, and running them in ONNX Runtime and as students.

use super::Random;
use super::graph::{BOOL, FLOAT, INT64, declared};
use nst_cache::array::{Array, Values};
use nst_cache::onnx::proto::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, ValueInfoProto, tensor_shape_proto,
};
use nst_cache::onnx::{Model, tensor_proto};
use nst_cache::runtime::{Device, Runtime, Session, SessionOptions};
use nst_cache::student::{Executor, ImportOptions, Mode, Student};
use prost::Message as _;
use std::path::Path;

use candle_core::{DType, Tensor};

fn value(name: &str, element: i32, shape: Option<&[usize]>) -> ValueInfoProto {
    let shape = shape.map(|shape| {
        let dim = |&n: &usize| tensor_shape_proto::Dimension {
            value: Some(tensor_shape_proto::dimension::Value::DimValue(n as i64)),
            ..Default::default()
        };
        TensorShapeProto { dim: shape.iter().map(dim).collect() }
    });
    declared(name, element, shape)
}

/// A graph being written. Names of initializers that begin with `p` train, whatever place they
/// stand in.
#[derive(Debug, Clone)]
pub struct Net {
    pub opset: i64,
    pub nodes: Vec<NodeProto>,
    pub initializers: Vec<TensorProto>,
    pub inputs: Vec<(String, Array)>,
    pub outputs: Vec<(String, i32)>,
}

pub fn array_of(shape: &[usize], values: &[f64]) -> Array {
    Array::new(shape.to_vec(), Values::F32(values.iter().map(|&v| v as f32).collect())).unwrap()
}

impl Net {
    pub fn new(opset: i64) -> Self {
        Self {
            opset,
            nodes: Vec::new(),
            initializers: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
        }
    }

    pub fn float(&mut self, name: &str, shape: &[usize], values: &[f64]) -> String {
        self.initializers.push(tensor_proto(name, &array_of(shape, values)));
        name.into()
    }

    pub fn int64(&mut self, name: &str, shape: &[usize], values: &[i64]) -> String {
        self.initializers.push(tensor_proto(
            name,
            &Array::new(shape.to_vec(), Values::I64(values.to_vec())).unwrap(),
        ));
        name.into()
    }

    pub fn boolean(&mut self, name: &str, shape: &[usize], values: &[bool]) -> String {
        self.initializers.push(TensorProto {
            name: Some(name.into()),
            dims: shape.iter().map(|&n| n as i64).collect(),
            data_type: Some(BOOL),
            raw_data: Some(values.iter().map(|&b| u8::from(b)).collect::<Vec<u8>>().into()),
            ..TensorProto::default()
        });
        name.into()
    }

    pub fn input(&mut self, name: &str, array: Array) -> String {
        self.inputs.push((name.into(), array));
        name.into()
    }

    pub fn node(
        &mut self,
        operator: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: Vec<AttributeProto>,
    ) -> String {
        self.nodes.push(NodeProto {
            op_type: Some(operator.into()),
            name: Some(format!("{operator}_{}", self.nodes.len())),
            input: inputs.iter().map(|&i| i.into()).collect(),
            output: outputs.iter().map(|&o| o.into()).collect(),
            attribute: attributes,
            ..NodeProto::default()
        });
        outputs[0].into()
    }

    pub fn output(&mut self, name: &str) {
        self.outputs.push((name.into(), FLOAT));
    }

    pub fn model(&self) -> Model {
        let input = |(name, array): &(String, Array)| {
            let element = if matches!(array.values(), Values::I64(_)) { INT64 } else { FLOAT };
            value(name, element, Some(array.shape()))
        };
        let graph = GraphProto {
            name: Some("test".into()),
            node: self.nodes.clone(),
            initializer: self.initializers.clone(),
            input: self.inputs.iter().map(input).collect(),
            output: self
                .outputs
                .iter()
                .map(|(name, element)| value(name, *element, None))
                .collect(),
            ..GraphProto::default()
        };
        let proto = ModelProto {
            ir_version: Some(10),
            graph: Some(graph),
            opset_import: vec![OperatorSetIdProto {
                version: Some(self.opset),
                ..OperatorSetIdProto::default()
            }],
            ..ModelProto::default()
        };
        Model::from_proto(ModelProto::decode(proto.encode_to_vec().as_slice()).unwrap()).unwrap()
    }

    /// What ONNX Runtime computes for every output.
    pub fn runtime(&self) -> Result<Vec<(Vec<usize>, Vec<f64>)>, String> {
        self.runtime_of(&self.model())
    }

    /// The same by another model of these inputs and outputs.
    pub fn runtime_of(&self, model: &Model) -> Result<Vec<(Vec<usize>, Vec<f64>)>, String> {
        let options = SessionOptions { device: Device::Cpu, threads: 1 };
        let names: Vec<String> = self.outputs.iter().map(|(name, _)| name.clone()).collect();
        let mut session = Session::new(&library(), model, &[], &options).map_err(|e| e.chain())?;
        let inputs: Vec<(&str, &Array)> =
            self.inputs.iter().map(|(name, array)| (name.as_str(), array)).collect();
        let outputs = session.run(&inputs, &names).map_err(|e| e.chain())?;
        Ok(outputs
            .iter()
            .map(|a| {
                (
                    a.shape().to_vec(),
                    a.as_f32().expect("outputs are float32").iter().map(|&v| v.into()).collect(),
                )
            })
            .collect())
    }

    pub fn try_student(&self, dtype: DType) -> Result<Student, String> {
        self.try_student_of(dtype, ImportOptions::default().executor)
    }

    pub fn try_student_of(&self, dtype: DType, executor: Executor) -> Result<Student, String> {
        let trains = self.initializers.iter().any(|i| i.name().starts_with('p'));
        let train = if trains { vec!["p*".to_owned()] } else { Vec::new() };
        Student::import(
            &self.model(),
            &ImportOptions { dtype, train, executor, ..ImportOptions::default() },
        )
        .map_err(|e| e.chain())
    }

    pub fn student(&self, dtype: DType) -> Student {
        self.try_student(dtype).unwrap()
    }

    pub fn feed(&self, dtype: DType) -> Vec<Tensor> {
        let tensor = |(_, array): &(String, Array)| {
            let values: Vec<f64> = match array.values() {
                Values::I64(v) => v.iter().map(|&v| v as f64).collect(),
                Values::F32(v) => v.iter().map(|&v| v.into()).collect(),
                _ => panic!("inputs are float32 or int64"),
            };
            Tensor::from_vec(values, array.shape(), &candle_core::Device::Cpu)
                .unwrap()
                .to_dtype(dtype)
                .unwrap()
        };
        self.inputs.iter().map(tensor).collect()
    }

    /// What the student computes for every output.
    pub fn evaluate(
        &self,
        student: &Student,
        dtype: DType,
        mode: Mode,
    ) -> Result<Vec<(Vec<usize>, Vec<f64>)>, String> {
        let ids: Vec<_> =
            self.outputs.iter().map(|(name, _)| student.tensor(name).unwrap()).collect();
        let pass = student.forward(&self.feed(dtype), mode, &ids, 3).map_err(|e| e.chain())?;
        Ok(ids
            .iter()
            .map(|&id| pass.value(id).unwrap())
            .map(|t| (t.dims().to_vec(), values(t)))
            .collect())
    }
}

pub fn values(t: &Tensor) -> Vec<f64> {
    t.flatten_all().unwrap().to_dtype(DType::F64).unwrap().to_vec1().unwrap()
}

pub fn library() -> Runtime {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release").join(format!(
        "{}onnxruntime{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    ));
    let path = (std::env::var_os("ORT_DYLIB_PATH").is_none() && built.is_file()).then_some(built);
    Runtime::load(path.as_deref())
        .expect("ONNX Runtime's library: run `make build` or set ORT_DYLIB_PATH")
}

/// Fails unless two lists of outputs agree to `tolerance` of their largest value.
pub fn compare(
    found: &[(Vec<usize>, Vec<f64>)],
    expected: &[(Vec<usize>, Vec<f64>)],
    tolerance: f64,
) -> Result<(), String> {
    for (i, ((shape, values), (right_shape, right))) in found.iter().zip(expected).enumerate() {
        if shape != right_shape {
            return Err(format!("output {i}: shape {shape:?} for {right_shape:?}"));
        }
        let size = right.iter().filter(|v| v.is_finite()).fold(1e-3f64, |a, b| a.max(b.abs()));
        for (at, (a, b)) in values.iter().zip(right).enumerate() {
            let same = a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= tolerance * size;
            if !same {
                return Err(format!("output {i} of shape {shape:?} at {at}: {a} for {b}"));
            }
        }
    }
    Ok(())
}

/// A weighted sum of the outputs, and its gradient with respect to every parameter (training mode).
pub struct Objective<'a> {
    pub net: &'a Net,
    pub student: Student,
    inputs: Vec<Tensor>,
    weights: Vec<Tensor>,
}

impl<'a> Objective<'a> {
    pub fn new(net: &'a Net) -> Self {
        Self::of(net, net.student(DType::F64))
    }

    pub fn of(net: &'a Net, student: Student) -> Self {
        let mut random = Random(77);
        let outputs = net.evaluate(&student, DType::F64, Mode::Train).unwrap();
        let weights = outputs
            .iter()
            .map(|(shape, values)| {
                Tensor::from_vec(
                    random.numbers(values.len(), -1.0, 1.0),
                    shape.as_slice(),
                    &candle_core::Device::Cpu,
                )
                .unwrap()
            })
            .collect();
        Self { net, student, inputs: net.feed(DType::F64), weights }
    }

    fn ids(&self) -> Vec<nst_cache::student::TensorId> {
        self.net.outputs.iter().map(|(name, _)| self.student.tensor(name).unwrap()).collect()
    }

    pub fn loss(&self) -> f64 {
        let ids = self.ids();
        let pass = self.student.forward(&self.inputs, Mode::Train, &ids, 3).unwrap();
        let dot = |(&id, w): (&_, &Tensor)| {
            values(pass.value(id).unwrap()).iter().zip(values(w)).map(|(a, b)| a * b).sum::<f64>()
        };
        ids.iter().zip(&self.weights).map(dot).sum()
    }

    pub fn gradients(&self) -> Vec<Option<Vec<f64>>> {
        let ids = self.ids();
        let pass = self.student.forward(&self.inputs, Mode::Train, &ids, 3).unwrap();
        let seeds = ids.iter().copied().zip(self.weights.iter().cloned()).collect();
        let gradients = pass.backward(seeds).unwrap();
        for (gradient, parameter) in gradients.iter().zip(self.student.parameters()) {
            if let Some(gradient) = gradient {
                assert_eq!(gradient.dims(), parameter.var.dims(), "gradient of {}", parameter.name);
            }
        }
        gradients.iter().map(|g| g.as_ref().map(values)).collect()
    }

    pub fn set(&self, parameter: usize, values: &[f64]) {
        let var = &self.student.parameters()[parameter].var;
        var.set(&Tensor::from_vec(values.to_vec(), var.dims(), &candle_core::Device::Cpu).unwrap())
            .unwrap();
    }

    pub fn get(&self, parameter: usize) -> Vec<f64> {
        values(self.student.parameters()[parameter].var.as_tensor())
    }
}
