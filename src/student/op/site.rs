//! A node as an operator's planning sees it: attributes, input shapes, and the inputs whose values
//! are known.

use crate::error::{Error, Result};
use crate::onnx::operator::Integers;
use crate::onnx::proto::{AttributeProto, NodeProto};
use crate::student::host::Host;
use candle_core::DType;

/// ONNX element types that are integers or booleans.
pub(in crate::student) const INTEGERS: [i64; 9] = [2, 3, 4, 5, 6, 7, 9, 12, 13];

/// A node with what is known of its inputs.
#[derive(Debug)]
pub(in crate::student) struct Site<'a> {
    pub(in crate::student) node: &'a NodeProto,
    pub(in crate::student) opset: i64,
    /// The node's number in the graph: keys its random draws.
    pub(in crate::student) number: usize,
    /// The float type that the student computes in.
    pub(in crate::student) dtype: DType,
    /// Whether it is a batch norm that keeps its statistics in training.
    pub(in crate::student) is_frozen: bool,
    /// The shape of each input; `None` for an input that is left out.
    pub(in crate::student) shapes: Vec<Option<Vec<usize>>>,
    /// The values of inputs that do not depend on data or parameters.
    pub(in crate::student) constants: Vec<Option<&'a Host>>,
    /// Which inputs hold integers or booleans: on data these run as floats, and a few operators
    /// differ.
    pub(in crate::student) integers: Vec<bool>,
}

impl<'a> Site<'a> {
    pub(super) fn operator(&self) -> &'a str {
        self.node.op_type()
    }

    pub(super) fn attribute(&self, name: &str) -> Option<&'a AttributeProto> {
        attribute(self.node, name)
    }

    pub(in crate::student) fn int(&self, name: &str, default: i64) -> i64 {
        self.attribute(name).map_or(default, AttributeProto::i)
    }

    pub(super) fn float(&self, name: &str, default: f32) -> f32 {
        self.attribute(name).map_or(default, AttributeProto::f)
    }

    pub(super) fn ints(&self, name: &str) -> Option<&'a [i64]> {
        self.attribute(name).map(|a| a.ints.as_slice())
    }

    pub(in crate::student) fn text(&self, name: &str) -> Option<String> {
        self.attribute(name).map(|a| String::from_utf8_lossy(a.s()).into_owned())
    }

    /// Sizes along the spatial axes from an attribute, or `default` for each.
    pub(super) fn sizes<const N: usize>(&self, name: &str, default: usize) -> Result<[usize; N]> {
        let Some(values) = self.ints(name).filter(|v| !v.is_empty()) else {
            return Ok([default; N]);
        };
        let sizes: Vec<usize> = values
            .iter()
            .filter_map(|&v| usize::try_from(v).ok().filter(|&v| v < 1 << 31))
            .collect();
        sizes
            .try_into()
            .map_err(|_| Error::input(format!("{name}: expected {N} sizes, found {values:?}")))
    }

    pub(in crate::student) fn integer(&self, input: usize) -> bool {
        self.integers.get(input) == Some(&true)
    }

    /// Whether an output of the node holds integers or booleans.
    pub(in crate::student) fn yields_integers(&self, output: usize) -> bool {
        let operator = self.node.operator();
        if operator.places == Some(output) {
            return true;
        }
        match operator.integers {
            Integers::ByType => INTEGERS.contains(&self.int("to", 1)),
            Integers::Like(input) => self.integer(input),
            Integers::Always => true,
            Integers::Never => false,
        }
    }

    /// The value of an input, which is known.
    pub(in crate::student) fn given(&self, input: usize) -> Result<&'a Host> {
        self.constant(input).ok_or_else(|| Error::input(format!("input {input} is missing")))
    }

    pub(super) fn has(&self, input: usize) -> bool {
        self.shapes.get(input).is_some_and(Option::is_some)
    }

    pub(in crate::student) fn shape(&self, input: usize) -> Result<&[usize]> {
        self.shapes
            .get(input)
            .and_then(Option::as_deref)
            .ok_or_else(|| Error::input(format!("input {input} is missing")))
    }

    /// The shape of an input of this rank.
    pub(super) fn shape_of<const N: usize>(&self, input: usize) -> Result<[usize; N]> {
        let shape = self.shape(input)?;
        shape.try_into().map_err(|_| {
            Error::input(format!("input {input}: expected {N} axes, found shape {shape:?}"))
        })
    }

    pub(in crate::student) fn constant(&self, input: usize) -> Option<&'a Host> {
        self.constants.get(input).copied().flatten()
    }

    /// An optional input that must be known when the graph is planned.
    fn known(&self, input: usize) -> Result<Option<&'a Host>> {
        if !self.has(input) {
            return Ok(None);
        }
        let host = self.constant(input).ok_or_else(|| {
            Error::input(format!(
                "input {input}: expected a constant, found a value that depends on the data or on \
                 a parameter"
            ))
        });
        host.map(Some)
    }

    /// The integers of an optional input that must be known when the graph is planned.
    pub(in crate::student) fn known_ints(&self, input: usize) -> Result<Option<Vec<i64>>> {
        self.known(input)?.map(|host| host.ints().map(<[i64]>::to_vec)).transpose()
    }

    /// The numbers of an optional input that must be known when the graph is planned.
    pub(super) fn known_floats(&self, input: usize) -> Result<Option<Vec<f64>>> {
        Ok(self.known(input)?.map(Host::floats))
    }

    /// The number in an optional input that must be known when the graph is planned.
    pub(super) fn known_number(&self, input: usize) -> Result<Option<f64>> {
        Ok(self.known_floats(input)?.and_then(|values| values.first().copied()))
    }

    /// Integers that later opsets pass as an input and earlier ones as an attribute.
    pub(in crate::student) fn ints_at(&self, input: usize, name: &str) -> Result<Option<Vec<i64>>> {
        Ok(self.known_ints(input)?.or_else(|| self.ints(name).map(<[i64]>::to_vec)))
    }
}

/// A node's attribute by name.
pub(in crate::student) fn attribute<'a>(
    node: &'a NodeProto,
    name: &str,
) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|a| a.name() == name)
}

/// An axis counted from the end if negative.
pub(in crate::student) fn axis(axis: i64, rank: usize) -> Result<usize> {
    let signed = i64::try_from(rank).unwrap_or(i64::MAX);
    let from_start = if axis < 0 { axis + signed } else { axis };
    usize::try_from(from_start)
        .ok()
        .filter(|&a| a < rank)
        .ok_or_else(|| Error::input(format!("axis: expected one of {rank} axes, found {axis}")))
}
