//! Kinds of damage to a manifest, under a right checksum.

use super::forge::{Damage, FEATURES, flip, pick, place, two, write_body};

use serde_json::{Value, json};

pub fn segment_twice(to: &mut Damage) -> String {
    let at = to.segment();
    let mut segment = to.segments()[at].clone();
    let kind = *pick(&mut to.random, &["beside", "at the end", "another"]);
    match kind {
        "beside" => to.segments().insert(at, segment),
        "at the end" => to.segments().push(segment),
        _ => {
            segment["view"] = place(&mut to.random, 2).into();
            segment["index"] = place(&mut to.random, 4).into();
            let at = to.segment();
            to.segments().insert(at, segment);
        }
    }
    to.store();
    kind.to_owned()
}

pub fn segment_dropped(to: &mut Damage) -> String {
    let at = to.segment();
    to.segments().truncate(at);
    to.store();
    format!("from {at} on")
}

pub fn sums_swapped(to: &mut Damage) -> String {
    let (array, (a, b)) = (to.array(), to.two_segments());
    swap_values(to, &["crc32c"], array, (a, b));
    to.store();
    format!("array {array}, {a} and {b}")
}

/// Exchanges what two segments' records say of an array.
fn swap_values(to: &mut Damage, keys: &[&str], array: usize, (a, b): (usize, usize)) {
    for key in keys {
        let first = to.manifest["segments"][a][key][array].take();
        let second = to.manifest["segments"][b][key][array].take();
        to.manifest["segments"][a][key][array] = second;
        to.manifest["segments"][b][key][array] = first;
    }
}

/// Two shards of an array exchanged with their sums: the manifest says all that there is.
pub fn all_swapped(to: &mut Damage) -> String {
    let (array, (a, b)) = (to.array(), to.two_segments());
    let (first, second) = (to.shard(array, a), to.shard(array, b));
    to.exchange(&first, &second);
    swap_values(to, &["bytes", "crc32c"], array, (a, b));
    to.store();
    format!("{first} and {second}")
}

pub fn array_twice(to: &mut Damage) -> String {
    let at = to.array();
    let mut array = to.arrays()[at].clone();
    let path = array["path"].as_str().unwrap().to_owned();
    let names = [path.clone(), path.to_uppercase(), format!("{path}x"), format!("{path}/y")];
    let name = pick(&mut to.random, &names).clone();
    array["path"] = name.clone().into();
    to.manifest["view_arrays"].as_array_mut().unwrap().push(array);
    for segment in to.segments() {
        for key in ["bytes", "crc32c"] {
            let values = segment[key].as_array_mut().unwrap();
            values.push(values[at].clone());
        }
    }
    to.store();
    name
}

pub fn array_order(to: &mut Damage) -> String {
    let count = to.arrays().len();
    let (a, b) = two(&mut to.random, count);
    to.manifest["view_arrays"].as_array_mut().unwrap().swap(a, b);
    let with_sums = to.random.unit() < 0.5;
    for segment in to.segments().iter_mut().filter(|_| with_sums) {
        for key in ["bytes", "crc32c"] {
            segment[key].as_array_mut().unwrap().swap(a, b);
        }
    }
    to.store();
    format!("{a} and {b}, sums too: {with_sums}")
}

pub fn paths_swapped(to: &mut Damage) -> String {
    let [one, two] = FEATURES.map(|path| to.of_path(path));
    to.manifest["view_arrays"][one]["path"] = FEATURES[1].into();
    to.manifest["view_arrays"][two]["path"] = FEATURES[0].into();
    to.store();
    "of the two taps".to_owned()
}

/// The places of all plain values.
fn pointers(value: &Value, prefix: &str, into: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            fields
                .iter()
                .for_each(|(key, value)| pointers(value, &format!("{prefix}/{key}"), into));
        }
        Value::Array(items) => {
            items.iter().zip(0..).for_each(|(value, at): (_, usize)| {
                pointers(value, &format!("{prefix}/{at}"), into);
            });
        }
        _ => into.push(prefix.to_owned()),
    }
}

pub fn manifest_value(to: &mut Damage) -> String {
    let mut all = Vec::new();
    pointers(&to.manifest, "", &mut all);
    let pointer = pick(&mut to.random, &all).clone();
    let old = to.manifest.pointer(&pointer).unwrap().clone();
    let mut values = vec![
        json!(0),
        json!(-1),
        json!(1),
        json!(1u64 << 31),
        json!(1u64 << 32),
        json!(1u64 << 40),
        json!(1u64 << 53),
        json!(i64::MAX),
        json!(1u64 << 63),
        json!(u64::MAX),
        json!(1e308),
        json!(null),
        json!("x"),
        json!([]),
        json!({}),
        json!(true),
    ];
    if let Some(old) = old.as_u64() {
        values.extend([json!(old.wrapping_add(1)), json!(old.saturating_sub(1))]);
    } else {
        values.extend(["a/b", "..", "/etc/passwd", "", "é"].map(Value::from));
        values.push("a".repeat(5000).into());
    }
    let value = pick(&mut to.random, &values).clone();
    let shown: String = value.to_string().chars().take(40).collect();
    *to.manifest.pointer_mut(&pointer).unwrap() = value;
    to.store();
    format!("{pointer}: {shown}")
}

pub fn geometry(to: &mut Damage) -> String {
    let array = to.array();
    let keys = [
        ("rows", json!([1, 383, 385, 1u64 << 38, 1u64 << 39])),
        ("views", json!([1, 3, 1 << 30])),
        ("segment_rows", json!([1, 64, 256, 384, 1u64 << 38])),
        ("chunk_rows", json!([1, 16, 64, 128, 1 << 29])),
        ("dtype", json!(["float32", "float16", "uint8", "int64", "float64", "int32"])),
        ("codec", json!(["raw", "zstd"])),
        ("row_shape", json!([[784], [16, 49, 1], [7, 7, 16], [1 << 20], []])),
        ("axes", json!([["h", "w", "c"], ["c", "w", "h"], ["x", "y", "z"], []])),
    ];
    let (key, values) = pick(&mut to.random, &keys);
    let value = pick(&mut to.random, values.as_array().unwrap()).clone();
    let places = [String::new(), format!("/view_arrays/{array}"), "/row_arrays/0".to_owned()];
    let of = if ["rows", "views", "segment_rows"].contains(key) {
        &places[0]
    } else {
        pick(&mut to.random, &places[1..])
    };
    let shown = format!("{of}/{key}: {value}");
    to.manifest.pointer_mut(of).unwrap()[key] = value;
    to.store();
    shown
}

pub fn manifest_text(to: &mut Damage) -> String {
    let text = to.manifest.to_string();
    let kind = *pick(&mut to.random, &["key twice", "unknown key", "deep", "cut", "bit", "spaces"]);
    let bytes = match kind {
        "key twice" => text.replace("\"rows\":384", "\"rows\":384,\"rows\":128").into_bytes(),
        "unknown key" => format!("{},\"surprise\":1}}", &text[..text.len() - 1]).into_bytes(),
        "deep" => {
            let deep = format!("\"skipped\":{}{}", "[".repeat(100_000), "]".repeat(100_000));
            text.replace("\"skipped\":[]", &deep).into_bytes()
        }
        "cut" => text.as_bytes()[..place(&mut to.random, text.len())].to_vec(),
        "bit" => {
            let mut bytes = text.into_bytes();
            flip(&mut bytes, &mut to.random);
            bytes
        }
        _ => text.replace(',', " , ").into_bytes(),
    };
    write_body(&to.cache, &bytes);
    kind.to_owned()
}
