//! Python's pickles, as far as CIFAR's files need them: one dictionary of numbers, texts, lists of
//! these, and arrays of bytes. Nothing is ever called; whatever else a pickle asks for is refused.
//!
//! The opcodes are those of protocols 0 to 4 (`Lib/pickletools.py` of `CPython`); the published
//! files have protocol 2.

use crate::error::{Error, Result, shown};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// Most opcodes of a file; CIFAR-100's has some 300,000.
const MOST: usize = 1 << 21;

/// A value of the dictionary.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'a> {
    None,
    Number(i64),
    /// Text or bytes: Python 2 has no difference.
    Text(&'a [u8]),
    /// Numbers and texts.
    List(Vec<Value<'a>>),
    /// An array of bytes in C order.
    Array {
        shape: Vec<i64>,
        bytes: &'a [u8],
    },
    /// What is only there while the file is read.
    Part(Part<'a>),
}

/// What arrays are made of, and the dictionary itself.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Part<'a> {
    Mark,
    Dictionary(BTreeMap<&'a [u8], Value<'a>>),
    /// No tuple in it has another one in it.
    Tuple(Rc<Vec<Value<'a>>>),
    Global(Global),
    /// The type of an array of bytes.
    Bytes,
    /// An array that has no content yet.
    Array,
    /// A list or a dictionary that is asked for again.
    Again,
}

/// What may be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    Reconstruct,
    Array,
    Type,
}

/// Reads a pickle of a dictionary whose keys are texts.
///
/// # Errors
/// If it is anything else, truncated, or longer than its values need.
pub(super) fn dictionary(bytes: &[u8]) -> Result<BTreeMap<&[u8], Value<'_>>> {
    let mut machine = Machine { bytes, at: 0, stack: Vec::new(), memo: HashMap::new() };
    for _ in 0..MOST {
        let start = machine.at;
        let ended = machine
            .step()
            .map_err(|what| Error::input(format!("byte {start} of the pickle: {what}")))?;
        if let Some(dictionary) = ended {
            return Ok(dictionary);
        }
    }
    Err(Error::input(format!("expected a pickle of at most {MOST} steps, found a longer one")))
}

type Found<T> = Result<T, String>;

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    memo: HashMap<u64, Value<'a>>,
}

impl<'a> Machine<'a> {
    /// One opcode; the dictionary after the last.
    fn step(&mut self) -> Found<Option<BTreeMap<&'a [u8], Value<'a>>>> {
        let opcode = self.number(1)?;
        match u8::try_from(opcode).unwrap_or_default() {
            // PROTO, FRAME
            0x80 => match self.number(1)? {
                0..=4 => {}
                other => return Err(format!("expected protocol 0 to 4, found {other}")),
            },
            0x95 => {
                self.take(8)?;
            }
            b'}' => self.stack.push(Value::Part(Part::Dictionary(BTreeMap::new()))),
            b']' => self.stack.push(Value::List(Vec::new())),
            b')' => self.stack.push(Value::Part(Part::Tuple(Rc::default()))),
            b'(' => self.stack.push(Value::Part(Part::Mark)),
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Number(1)),
            0x89 => self.stack.push(Value::Number(0)),
            // BININT1, BININT2, BININT, LONG1, INT
            b'K' => self.push_number(1)?,
            b'M' => self.push_number(2)?,
            b'J' => {
                let bits = u32::try_from(self.number(4)?).unwrap_or_default();
                self.stack.push(Value::Number(i64::from(bits.cast_signed())));
            }
            0x8a => match self.number(1)? {
                0 => self.stack.push(Value::Number(0)),
                width @ 1..=8 => {
                    let unused = 64 - 8 * u32::try_from(width).unwrap_or(8);
                    let bits = self.number(usize::try_from(width).unwrap_or(8))?;
                    self.stack.push(Value::Number((bits << unused).cast_signed() >> unused));
                }
                other => {
                    return Err(format!("expected a number of at most 8 bytes, found {other}"));
                }
            },
            b'I' => {
                let line = self.line()?;
                let number = std::str::from_utf8(line).ok().and_then(|text| text.parse().ok());
                self.stack.push(Value::Number(number.ok_or("expected a number")?));
            }
            // SHORT_BINSTRING, SHORT_BINBYTES, SHORT_BINUNICODE; BINSTRING, BINBYTES, BINUNICODE;
            // BINBYTES8, BINUNICODE8; STRING
            b'U' | b'C' | 0x8c => self.push_text(1)?,
            b'T' | b'B' | b'X' => self.push_text(4)?,
            0x8e | 0x8d => self.push_text(8)?,
            b'S' => {
                let line = self.line()?;
                let text = [b'\'', b'"']
                    .into_iter()
                    .find_map(|quote| line.strip_prefix(&[quote])?.strip_suffix(&[quote]));
                let text = text.filter(|text| !text.contains(&b'\\'));
                self.stack.push(Value::Text(text.ok_or("expected a plain string in quotes")?));
            }
            // BINPUT, LONG_BINPUT, PUT, MEMOIZE; BINGET, LONG_BINGET, GET
            b'q' => self.put(1)?,
            b'r' => self.put(4)?,
            b'p' => {
                let place = self.line_number()?;
                self.remember(place)?;
            }
            0x94 => self.remember(self.memo.len() as u64)?,
            b'h' => self.get(1)?,
            b'j' => self.get(4)?,
            b'g' => {
                let place = self.line_number()?;
                self.recall(place)?;
            }
            // TUPLE, TUPLE1 to TUPLE3, LIST, DICT
            b't' => {
                let values = self.since_mark()?;
                self.push_tuple(values)?;
            }
            count @ 0x85..=0x87 => {
                let from = self.stack.len().checked_sub(usize::from(count - 0x84));
                let values = self.stack.split_off(from.ok_or("expected more values")?);
                self.push_tuple(values)?;
            }
            b'l' => {
                let values = self.since_mark()?;
                self.stack.push(Value::List(Vec::new()));
                self.append(values)?;
            }
            b'd' => {
                let values = self.since_mark()?;
                self.stack.push(Value::Part(Part::Dictionary(BTreeMap::new())));
                self.set(values)?;
            }
            // APPEND, APPENDS, SETITEM, SETITEMS
            b'a' => {
                let value = self.pop()?;
                self.append(vec![value])?;
            }
            b'e' => {
                let values = self.since_mark()?;
                self.append(values)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(vec![key, value])?;
            }
            b'u' => {
                let values = self.since_mark()?;
                self.set(values)?;
            }
            // GLOBAL, STACK_GLOBAL, REDUCE, BUILD
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.stack.push(global(module, name)?);
            }
            0x93 => match (self.pop()?, self.pop()?) {
                (Value::Text(name), Value::Text(module)) => self.stack.push(global(module, name)?),
                _ => return Err("expected the name of a function".into()),
            },
            b'R' => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.stack.push(reduced(&function, &arguments)?);
            }
            b'b' => {
                let (state, object) = (self.pop()?, self.pop()?);
                self.stack.push(built(object, &state)?);
            }
            b'.' => {
                return match (self.pop()?, self.stack.is_empty(), self.at == self.bytes.len()) {
                    (Value::Part(Part::Dictionary(dictionary)), true, true) => Ok(Some(dictionary)),
                    (Value::Part(Part::Dictionary(_)), ..) => Err("expected its end".into()),
                    _ => Err("expected a dictionary".into()),
                };
            }
            other => {
                return Err(format!(
                    "expected a dictionary of numbers, texts, lists and arrays, found the opcode \
                     {other:#04x}"
                ));
            }
        }
        Ok(None)
    }

    fn take(&mut self, count: usize) -> Found<&'a [u8]> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or("expected more bytes, found the end of the file")?;
        self.at += count;
        Ok(taken)
    }

    /// A little-endian number of up to eight bytes.
    fn number(&mut self, width: usize) -> Found<u64> {
        let bytes = self.take(width)?;
        Ok(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    /// The rest of a line.
    fn line(&mut self) -> Found<&'a [u8]> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.iter().take(256).position(|&b| b == b'\n');
        let line = self.take(length.ok_or("expected a line of at most 256 bytes")?)?;
        self.at += 1;
        Ok(line)
    }

    fn line_number(&mut self) -> Found<u64> {
        let line = std::str::from_utf8(self.line()?).ok();
        line.and_then(|text| text.parse().ok()).ok_or_else(|| "expected a number".into())
    }

    fn push_number(&mut self, width: usize) -> Found<()> {
        let number = self.number(width)?;
        self.stack.push(Value::Number(i64::try_from(number).unwrap_or(i64::MAX)));
        Ok(())
    }

    fn push_text(&mut self, width: usize) -> Found<()> {
        let length = self.number(width)?;
        let text = self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
        self.stack.push(Value::Text(text));
        Ok(())
    }

    fn push_tuple(&mut self, values: Vec<Value<'a>>) -> Found<()> {
        let holds = |value: &Value<'a>, kind: fn(&Value<'a>) -> bool| match value {
            Value::Part(Part::Tuple(inner)) => inner.iter().any(kind),
            other => matches!(other, Value::List(_) | Value::Part(Part::Dictionary(_))),
        };
        let is_tuple = |value: &Value<'a>| matches!(value, Value::Part(Part::Tuple(_)));
        if values.iter().any(|value| holds(value, is_tuple)) {
            return Err("expected tuples of numbers and texts".into());
        }
        self.stack.push(Value::Part(Part::Tuple(Rc::new(values))));
        Ok(())
    }

    fn pop(&mut self) -> Found<Value<'a>> {
        match self.stack.pop() {
            None | Some(Value::Part(Part::Mark)) => Err("expected a value, found none".into()),
            Some(value) => Ok(value),
        }
    }

    /// The values behind the last mark, which is removed.
    fn since_mark(&mut self) -> Found<Vec<Value<'a>>> {
        let mark = self.stack.iter().rposition(|value| *value == Value::Part(Part::Mark));
        let mark = mark.ok_or("expected a mark, found none")?;
        let values = self.stack.split_off(mark + 1);
        self.stack.pop();
        Ok(values)
    }

    fn put(&mut self, width: usize) -> Found<()> {
        let place = self.number(width)?;
        self.remember(place)
    }

    fn get(&mut self, width: usize) -> Found<()> {
        let place = self.number(width)?;
        self.recall(place)
    }

    fn remember(&mut self, place: u64) -> Found<()> {
        let value = match self.stack.last().ok_or("expected a value, found none")? {
            Value::List(_) | Value::Array { .. } | Value::Part(Part::Dictionary(_)) => {
                Value::Part(Part::Again)
            }
            value => value.clone(),
        };
        self.memo.insert(place, value);
        Ok(())
    }

    fn recall(&mut self, place: u64) -> Found<()> {
        let value = self.memo.get(&place).ok_or("expected a value that was there before")?;
        self.stack.push(value.clone());
        Ok(())
    }

    /// Appends to the list on top.
    fn append(&mut self, values: Vec<Value<'a>>) -> Found<()> {
        if !values.iter().all(|value| matches!(value, Value::Number(_) | Value::Text(_))) {
            return Err("expected a list of numbers or texts".into());
        }
        match self.stack.last_mut() {
            Some(Value::List(list)) => list.extend(values),
            _ => return Err("expected a list".into()),
        }
        Ok(())
    }

    /// Adds keys and values, in turn, to the dictionary on top.
    fn set(&mut self, values: Vec<Value<'a>>) -> Found<()> {
        let Some(Value::Part(Part::Dictionary(dictionary))) = self.stack.last_mut() else {
            return Err("expected a dictionary".into());
        };
        let mut values = values.into_iter();
        while let Some(key) = values.next() {
            let (Value::Text(key), Some(value)) = (key, values.next()) else {
                return Err("expected texts as keys, with a value each".into());
            };
            if matches!(value, Value::Part(_)) {
                return Err("expected a number, a text, a list or an array".into());
            }
            if dictionary.insert(key, value).is_some() {
                return Err(format!("expected a key once, found {} twice", shown(key)));
            }
        }
        Ok(())
    }
}

/// What a name stands for.
fn global<'a>(module: &[u8], name: &[u8]) -> Found<Value<'a>> {
    let global = match (module, name) {
        (b"numpy.core.multiarray" | b"numpy._core.multiarray", b"_reconstruct") => {
            Global::Reconstruct
        }
        (b"numpy", b"ndarray") => Global::Array,
        (b"numpy", b"dtype") => Global::Type,
        _ => {
            return Err(format!(
                "expected arrays of numpy, found {}.{}, which is not called",
                shown(module),
                shown(name)
            ));
        }
    };
    Ok(Value::Part(Part::Global(global)))
}

/// What a call would return: an empty array, or the type `uint8`.
fn reduced<'a>(function: &Value<'a>, arguments: &Value<'a>) -> Found<Value<'a>> {
    let (Value::Part(Part::Global(function)), Value::Part(Part::Tuple(arguments))) =
        (function, arguments)
    else {
        return Err("expected an array of numpy".into());
    };
    match (function, arguments.as_slice()) {
        (Global::Reconstruct, [Value::Part(Part::Global(Global::Array)), _, _]) => {
            Ok(Value::Part(Part::Array))
        }
        (Global::Type, [Value::Text(b"u1" | b"|u1"), ..]) => Ok(Value::Part(Part::Bytes)),
        (Global::Type, [Value::Text(other), ..]) => {
            Err(format!("expected an array of uint8, found {}", shown(other)))
        }
        _ => Err("expected an array of numpy".into()),
    }
}

/// An object with its state: `(version, shape, type, is Fortran order, bytes)` for an array.
fn built<'a>(object: Value<'a>, state: &Value<'a>) -> Found<Value<'a>> {
    let Value::Part(Part::Tuple(state)) = state else { return Err("expected a state".into()) };
    match (object, state.as_slice()) {
        (Value::Part(Part::Bytes), _) => Ok(Value::Part(Part::Bytes)),
        (
            Value::Part(Part::Array),
            [
                Value::Number(_),
                Value::Part(Part::Tuple(shape)),
                Value::Part(Part::Bytes),
                Value::Number(fortran),
                Value::Text(bytes),
            ],
        ) => {
            let size = |value: &Value<'_>| match value {
                Value::Number(size) => Some(*size),
                _ => None,
            };
            let shape: Option<Vec<i64>> = shape.iter().map(size).collect();
            let shape = shape.ok_or("expected the shape of an array")?;
            let count = shape.iter().try_fold(1i64, |count, &size| count.checked_mul(size));
            if count.and_then(|count| usize::try_from(count).ok()) != Some(bytes.len()) {
                return Err(format!(
                    "expected as many bytes as in shape {shape:?}, found {}",
                    bytes.len()
                ));
            }
            if *fortran != 0 && shape.len() > 1 {
                return Err("expected an array in C order".into());
            }
            Ok(Value::Array { shape, bytes })
        }
        _ => Err("expected an array of uint8".into()),
    }
}

#[cfg(test)]
mod tests;
