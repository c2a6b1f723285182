//! Which columns of a Parquet file hold the images and the labels: Hugging Face's layout, or names
//! that are given.

use crate::data::spec::Columns;
use crate::error::{Error, Result};
use parquet::basic::{ConvertedType, LogicalType, Type};
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor};

/// Names of columns of images that need no others to be ruled out.
const IMAGES: [&str; 2] = ["image", "img"];
/// Names of columns of labels; the first one wins, of the others there may be one.
const LABELS: [&str; 10] = [
    "label",
    "labels",
    "fine_label",
    "coarse_label",
    "target",
    "class",
    "class_id",
    "cls",
    "category",
    "y",
];

/// How labels are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LabelType {
    Bool,
    Int32,
    Int64,
    Text,
}

/// A column of one value a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    /// Its index among the schema's leaves.
    pub leaf: usize,
    /// The outermost name.
    pub name: String,
    /// The definition level of a value that is there.
    pub defined: i16,
}

/// The columns that are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Roles {
    pub image: Column,
    pub label: Option<(Column, LabelType)>,
    /// Columns that may be meant as labels where none is.
    pub other_labels: Vec<String>,
}

/// Finds the columns, which `asked` may name.
///
/// # Errors
/// If there is no such column, or more than one could be meant.
pub(super) fn roles(schema: &SchemaDescriptor, asked: &Columns, file: &str) -> Result<Roles> {
    let leaves: Vec<(Column, &ColumnDescriptor)> = schema
        .columns()
        .iter()
        .enumerate()
        .filter(|(_, leaf)| leaf.max_rep_level() == 0)
        .filter_map(|(place, leaf)| {
            let name = leaf.path().parts().first()?.clone();
            Some((Column { leaf: place, name, defined: leaf.max_def_level() }, leaf.as_ref()))
        })
        .collect();
    let images: Vec<&Column> =
        leaves.iter().filter(|(_, leaf)| holds_images(leaf)).map(|(column, _)| column).collect();
    let labels: Vec<(&Column, LabelType)> =
        leaves.iter().filter_map(|(column, leaf)| Some((column, label_type(leaf)?))).collect();
    let ask = |what: &str, key: &str, names: &[&str]| {
        let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        Error::input(format!("{file}: expected one column of {what}, found {found}"))
            .hint(format!("name it: --data 'parquet:PATH#{key}=COLUMN'"))
    };
    let image_names: Vec<&str> = images.iter().map(|column| column.name.as_str()).collect();
    let named = |name: &str| images.iter().find(|column| column.name == name);
    let image = match &asked.image {
        Some(name) => named(name),
        None => IMAGES.iter().find_map(|name| named(name)).or(match images.as_slice() {
            [_] => images.first(),
            _ => None,
        }),
    };
    let image = image.ok_or_else(|| ask("images (bytes)", "image", &image_names))?;
    let label_names: Vec<&str> = labels.iter().map(|(column, _)| column.name.as_str()).collect();
    let named = |name: &str| labels.iter().find(|(column, _)| column.name == name);
    let label = if let Some(name) = &asked.label {
        Some(named(name).ok_or_else(|| ask("labels", "label", &label_names))?)
    } else {
        let found: Vec<_> = LABELS.iter().filter_map(|name| named(name)).collect();
        match found.as_slice() {
            [first, ..] if first.0.name == LABELS[0] => Some(*first),
            [] => None,
            [only] => Some(*only),
            several => {
                let names: Vec<&str> =
                    several.iter().map(|(column, _)| column.name.as_str()).collect();
                return Err(ask("labels", "label", &names));
            }
        }
    };
    let whole = |kind: &LabelType| *kind != LabelType::Text;
    let others = labels.iter().filter(|(_, kind)| whole(kind)).map(|(column, _)| &column.name);
    Ok(Roles {
        image: (*image).clone(),
        label: label.map(|(column, kind)| ((*column).clone(), *kind)),
        other_labels: if label.is_none() { others.cloned().collect() } else { Vec::new() },
    })
}

fn is_text(leaf: &ColumnDescriptor) -> bool {
    matches!(leaf.logical_type_ref(), Some(LogicalType::String | LogicalType::Enum))
        || matches!(leaf.converted_type(), ConvertedType::UTF8 | ConvertedType::ENUM)
}

/// A column of bytes, or the bytes of Hugging Face's images (`image.bytes` beside `image.path`).
fn holds_images(leaf: &ColumnDescriptor) -> bool {
    let place = match leaf.path().parts() {
        [_] => true,
        [_, bytes] => bytes == "bytes",
        _ => false,
    };
    place && leaf.physical_type() == Type::BYTE_ARRAY && !is_text(leaf)
}

fn label_type(leaf: &ColumnDescriptor) -> Option<LabelType> {
    if leaf.path().parts().len() != 1 {
        return None;
    }
    match leaf.physical_type() {
        Type::BOOLEAN => Some(LabelType::Bool),
        Type::INT32 if is_whole(leaf) => Some(LabelType::Int32),
        Type::INT64 if is_whole(leaf) => Some(LabelType::Int64),
        Type::BYTE_ARRAY if is_text(leaf) => Some(LabelType::Text),
        _ => None,
    }
}

/// Whether an integer is a number and no date or decimal.
fn is_whole(leaf: &ColumnDescriptor) -> bool {
    matches!(leaf.logical_type_ref(), None | Some(LogicalType::Integer { .. }))
        && !matches!(
            leaf.converted_type(),
            ConvertedType::DATE
                | ConvertedType::DECIMAL
                | ConvertedType::TIME_MILLIS
                | ConvertedType::TIME_MICROS
                | ConvertedType::TIMESTAMP_MILLIS
                | ConvertedType::TIMESTAMP_MICROS
        )
}
