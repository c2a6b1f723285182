//! Statistics of taps as nodes of the model's own graph, so that a device that computes the maps
//! returns only what is kept of them.
//!
//! Everything is in double precision and rounded to f32 at the end, as in [`crate::statistic`];
//! sums run in the runtime's order, which occasionally changes the last bit. Operators are in their
//! opset 8 form, which every later opset still has.

use super::{Model, proto, tensor_proto};
use crate::array::{Array, Layout, Values};
use crate::error::Result;
use crate::statistic::{MapShape, Statistic};
use proto::{
    AttributeProto, GraphProto, NodeProto, ValueInfoProto, attribute_proto::AttributeType,
};

/// The first opset with these operators.
const OPSET: i64 = 8;
/// ONNX's code of the element type float32.
const FLOAT: i64 = 1;
const DOUBLE: i64 = 11;
/// Larger Gram matrices (in entries) are left to the host: the indices that pack one would be
/// larger than the matrix.
const PAIRS_MAX: usize = 1 << 22;

/// A statistic for the graph to compute.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The tensor, `[batch, …]` in `map`'s axis order.
    pub tensor: String,
    /// The name of the result, `[batch, …]` as in [`MapShape::row`].
    pub name: String,
    /// What is computed.
    pub statistic: Statistic,
    /// The map it is computed from.
    pub map: MapShape,
    /// Height and width of the tensor before it is pooled to the map's size.
    pub from: [usize; 2],
    /// Lower bound on the norm that a channel map is divided by.
    pub dead_norm: f64,
    /// Weight of every input position in every output position, `[from, positions]`, if the tensor
    /// is pooled.
    pub pooling: Option<Vec<f64>>,
}

impl Model {
    /// Whether [`Model::with_statistics`] can compute this.
    #[must_use]
    pub fn can_compute(&self, statistic: Statistic, map: &MapShape) -> bool {
        let pairs = map.row(Statistic::Gram).and_then(|(shape, _)| shape.first().copied());
        let fits = statistic != Statistic::Gram || pairs.is_some_and(|pairs| pairs <= PAIRS_MAX);
        self.opset() >= OPSET && fits && !matches!(statistic, Statistic::Features | Statistic::Sign)
    }

    /// The model with nodes that compute these statistics, exposed as outputs. It keeps its hash:
    /// it is the same teacher.
    ///
    /// # Errors
    /// If a name already exists.
    pub fn with_statistics(&self, requests: &[Request]) -> Result<Self> {
        let mut graph = Nodes::default();
        for request in requests {
            graph.add(request)?;
        }
        self.extended(&graph.0)
    }
}

/// The nodes, constants and outputs to add.
#[derive(Default)]
struct Nodes(GraphProto);

impl Nodes {
    fn add(&mut self, request: &Request) -> Result<()> {
        let Request { tensor, name, pooling, .. } = request;
        let &Request { statistic, map, from, dead_norm, .. } = request;
        let [channels, positions] = [map.channels, map.height * map.width];
        let area = from[0] * from[1];
        let value = |what: &str| format!("{name}/{what}");
        let sizes = |list: &[usize]| {
            list.iter().map(|&n| i64::try_from(n).unwrap_or(i64::MAX)).collect::<Vec<_>>()
        };

        // [batch, channels, area]
        let mut maps = self.node("Cast", &[tensor], value("double"), vec![integer("to", DOUBLE)]);
        maps = match map.layout {
            Layout::Nchw => self.reshape(&maps, value("planes"), &sizes(&[0, channels, area]))?,
            Layout::Nhwc => {
                let rows = self.reshape(&maps, value("rows"), &sizes(&[0, area, channels]))?;
                self.turn(&rows, value("planes"))
            }
        };
        if let Some(weights) = pooling {
            let weights = self.constant(
                value("weights"),
                vec![area, positions],
                Values::F64(weights.clone()),
            )?;
            maps = self.product([&maps, &weights], value("pooled"));
        }
        let result = match statistic {
            Statistic::Gram => {
                let unit = self.unit(&maps, &value, positions, dead_norm)?;
                let turned = self.turn(&unit, value("turned"));
                let products = self.product([&turned, &unit], value("products"));
                let count =
                    self.constant(value("count"), Vec::new(), Values::F64(vec![wide(channels)]))?;
                let gram = self.node("Div", &[&products, &count], value("gram"), Vec::new());
                let flat =
                    self.reshape(&gram, value("flat"), &sizes(&[0, positions * positions]))?;
                let lower = (0..positions)
                    .flat_map(|row| row * positions..=row * positions + row)
                    .collect::<Vec<_>>();
                let lower =
                    self.constant(value("lower"), vec![lower.len()], Values::I64(sizes(&lower)))?;
                self.node("Gather", &[&flat, &lower], value("packed"), vec![integer("axis", 1)])
            }
            Statistic::Mean => {
                let unit = self.unit(&maps, &value, positions, dead_norm)?;
                self.over_channels(&unit, &value, &map)?
            }
            Statistic::Attention => {
                let squares = self.square(&maps, value("squared"));
                self.over_channels(&squares, &value, &map)?
            }
            _ => {
                let share = self.constant(
                    value("share"),
                    vec![positions, 1],
                    Values::F64(vec![1.0 / wide(positions); positions]),
                )?;
                let means = self.product([&maps, &share], value("means"));
                self.reshape(&means, value("vector"), &sizes(&[0, channels]))?
            }
        };
        self.node("Cast", &[&result], name.clone(), vec![integer("to", FLOAT)]);
        self.0
            .output
            .push(ValueInfoProto { name: Some(name.clone()), ..ValueInfoProto::default() });
        Ok(())
    }

    /// Divides each map by its norm.
    fn unit(
        &mut self,
        maps: &str,
        value: &impl Fn(&str) -> String,
        positions: usize,
        dead_norm: f64,
    ) -> Result<String> {
        let squares = self.square(maps, value("squares"));
        let ones =
            self.constant(value("ones"), vec![positions, 1], Values::F64(vec![1.0; positions]))?;
        let sums = self.product([&squares, &ones], value("sums"));
        let norms = self.node("Sqrt", &[&sums], value("norms"), Vec::new());
        let least = self.constant(value("least"), Vec::new(), Values::F64(vec![dead_norm]))?;
        let divisors = self.node("Max", &[&norms, &least], value("divisors"), Vec::new());
        Ok(self.node("Div", &[maps, &divisors], value("unit"), Vec::new()))
    }

    /// The mean over channels, `[batch, height, width]`.
    fn over_channels(
        &mut self,
        maps: &str,
        value: &impl Fn(&str) -> String,
        map: &MapShape,
    ) -> Result<String> {
        let channels = map.channels;
        let share = self.constant(
            value("share"),
            vec![1, 1, channels],
            Values::F64(vec![1.0 / wide(channels); channels]),
        )?;
        let mean = self.product([&share, maps], value("mean"));
        let size = [map.height, map.width].map(|n| i64::try_from(n).unwrap_or(i64::MAX));
        self.reshape(&mean, value("map"), &[0, size[0], size[1]])
    }

    fn node(
        &mut self,
        op: &str,
        inputs: &[&str],
        output: String,
        attribute: Vec<AttributeProto>,
    ) -> String {
        self.0.node.push(NodeProto {
            op_type: Some(op.to_owned()),
            name: Some(output.clone()),
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![output.clone()],
            attribute,
            ..NodeProto::default()
        });
        output
    }

    /// Transposes the last two axes.
    fn turn(&mut self, input: &str, output: String) -> String {
        self.node("Transpose", &[input], output, vec![integers("perm", &[0, 2, 1])])
    }

    /// The matrix product of two tensors.
    fn product(&mut self, factors: [&str; 2], output: String) -> String {
        self.node("MatMul", &factors, output, Vec::new())
    }

    /// Squares each element.
    fn square(&mut self, input: &str, output: String) -> String {
        self.node("Mul", &[input, input], output, Vec::new())
    }

    fn reshape(&mut self, input: &str, output: String, shape: &[i64]) -> Result<String> {
        let shape = self.constant(
            format!("{output}/shape"),
            vec![shape.len()],
            Values::I64(shape.to_vec()),
        )?;
        Ok(self.node("Reshape", &[input, &shape], output, Vec::new()))
    }

    fn constant(&mut self, name: String, shape: Vec<usize>, values: Values) -> Result<String> {
        self.0.initializer.push(tensor_proto(&name, &Array::new(shape, values)?));
        Ok(name)
    }
}

fn integer(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Int.into()),
        i: Some(value),
        ..AttributeProto::default()
    }
}

fn integers(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(AttributeType::Ints.into()),
        ints: values.to_vec(),
        ..AttributeProto::default()
    }
}

#[allow(clippy::cast_precision_loss, reason = "a number of channels or positions")]
fn wide(n: usize) -> f64 {
    n as f64
}
