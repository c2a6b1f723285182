//! Taps as the user names them.

use super::super::nearest::unknown;
use crate::array::Layout;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashSet;

/// A tap that the user asked for, resolved against the model's tensors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapChoice {
    /// The ONNX tensor's name.
    pub tensor: String,
    /// The name in the cache: `[A-Za-z0-9._-]+`, unique ignoring case.
    pub alias: String,
    /// The map's axis order, if the user states it.
    pub layout: Option<Layout>,
    /// Height and width to which the map is pooled at extraction.
    pub size: Option<[usize; 2]>,
}

/// A parsed request: the tensor, and the axis order, pooled size and alias if given.
#[derive(Clone, Copy)]
struct Request<'a> {
    tensor: &'a str,
    layout: Option<Layout>,
    size: Option<[usize; 2]>,
    alias: Option<&'a str>,
}

/// Resolves `TENSOR[:nchw|:nhwc][@HxW][=ALIAS]` (an exact tensor name wins over any suffix) against
/// `names` and makes aliases unique: a given alias is kept; one derived from a tensor's name gets
/// `-2`, `-3` … if it is taken.
///
/// # Errors
/// If a tensor is unknown (lists the nearest names) or named twice, or an alias has invalid
/// characters or is given twice.
pub fn resolve(requests: &[String], names: &[&str]) -> Result<Vec<TapChoice>> {
    let known: HashSet<&str> = names.iter().copied().filter(|name| !name.is_empty()).collect();
    let mut requested: Vec<Request<'_>> = Vec::new();
    let mut taken: HashSet<String> = HashSet::new();
    for text in requests {
        let request = parse(text, &known).ok_or_else(|| unknown("tap", stem(text), names))?;
        if requested.iter().any(|r| r.tensor == request.tensor) {
            return Err(Error::input(format!(
                "tap `{}`: expected once, found twice",
                request.tensor
            )));
        }
        if let Some(alias) = request.alias {
            check_alias(alias)?;
            if !taken.insert(alias.to_ascii_lowercase()) {
                return Err(Error::input(format!(
                    "alias `{alias}`: expected once (upper and lower case are the same), found \
                     twice"
                )));
            }
        }
        requested.push(request);
    }
    let choice = |r: Request<'_>| TapChoice {
        tensor: r.tensor.to_owned(),
        alias: r.alias.map_or_else(|| free(alias(r.tensor), &mut taken), str::to_owned),
        layout: r.layout,
        size: r.size,
    };
    Ok(requested.into_iter().map(choice).collect())
}

/// The longest tensor name that the request begins with wins: first the whole text, then the text
/// before the last `=`, and so on.
fn parse<'a>(text: &'a str, known: &HashSet<&str>) -> Option<Request<'a>> {
    let before_equals =
        text.rmatch_indices('=').map(|(at, _)| (&text[..at], Some(&text[at + 1..])));
    std::iter::once((text, None)).chain(before_equals).find_map(|(rest, alias)| {
        let request = |tensor, layout, size| {
            known.contains(tensor).then_some(Request { tensor, layout, size, alias })
        };
        let with_layout = |rest: &'a str, size| {
            let with_suffix = || {
                layout_suffix(rest).and_then(|(tensor, layout)| request(tensor, Some(layout), size))
            };
            request(rest, None, size).or_else(with_suffix)
        };
        with_layout(rest, None)
            .or_else(|| size_suffix(rest).and_then(|(rest, size)| with_layout(rest, Some(size))))
    })
}

/// Splits `t:nhwc` into `t` and the axis order.
fn layout_suffix(text: &str) -> Option<(&str, Layout)> {
    let (rest, layout) = text.rsplit_once(':')?;
    match layout {
        "nchw" => Some((rest, Layout::Nchw)),
        "nhwc" => Some((rest, Layout::Nhwc)),
        _ => None,
    }
}

/// Splits `t@8x4` into `t` and the size; a size with a 0 is not one.
fn size_suffix(text: &str) -> Option<(&str, [usize; 2])> {
    let (rest, size) = text.rsplit_once('@')?;
    let (height, width) = size.split_once('x')?;
    let pixels = |text: &str| text.parse::<usize>().ok().filter(|&n| n > 0);
    Some((rest, [pixels(height)?, pixels(width)?]))
}

/// The part of an unresolved request that was most likely meant as the tensor's name.
fn stem(text: &str) -> &str {
    let text = text.rsplit_once('=').map_or(text, |(left, _)| left);
    let text = match text.rsplit_once('@') {
        Some((left, size)) if size.bytes().all(|b| b.is_ascii_digit() || b == b'x') => left,
        _ => text,
    };
    layout_suffix(text).map_or(text, |(tensor, _)| tensor)
}

/// Names that start like this are special to file systems and to Zarr.
const RESERVED_BEGINNINGS: [char; 2] = ['.', '_'];
/// Names of files in a cache's folders, in any case: file systems that ignore case are common.
const RESERVED_NAMES: [&str; 2] = ["zarr.json", "manifest.json"];
/// The longest alias, in bytes. A path component in a cache has at most 200; suffixes (`-2`,
/// `-14x14`) need some of them.
const ALIAS_BYTES_MAX: usize = 160;
/// Bytes kept from the end of a longer name, which tells more than its beginning.
const TAIL_BYTES: usize = 80;

/// Checks that a name may be an alias; otherwise names the rule that it breaks.
fn check_alias(alias: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let refuse = |rule: &str| Err(Error::input(format!("alias `{alias}`: expected {rule}")));
    if alias.is_empty() || !alias.chars().all(plain) || alias.starts_with(RESERVED_BEGINNINGS) {
        return refuse("letters, digits and . _ -, beginning with a letter, a digit or -");
    }
    if alias.len() > ALIAS_BYTES_MAX {
        return refuse(&format!("at most {ALIAS_BYTES_MAX} characters, found {}", alias.len()));
    }
    if is_reserved(alias) {
        return refuse("a name other than that of a file of the cache");
    }
    Ok(())
}

fn is_reserved(name: &str) -> bool {
    RESERVED_NAMES.iter().any(|reserved| reserved.eq_ignore_ascii_case(name))
}

/// A path component for a cache: the name itself if it is valid, else one derived from it.
#[must_use]
pub fn path_name(name: &str) -> String {
    let is_safe = check_alias(name.strip_prefix('_').unwrap_or(name)).is_ok();
    if is_safe { name.to_owned() } else { alias(name) }
}

/// This name, with `-2`, `-3` … if it is taken, ignoring case; marks the result as taken.
pub fn free<S: std::hash::BuildHasher>(mut name: String, taken: &mut HashSet<String, S>) -> String {
    let length = name.len();
    let mut number = 2u32;
    while !taken.insert(name.to_ascii_lowercase()) {
        name.truncate(length);
        name = format!("{name}-{number}");
        number += 1;
    }
    name
}

/// A cache name derived from a tensor's name: `/layer1/layer1.2/Relu_1_output_0` →
/// `layer1.2.Relu_1`. It is a valid alias: a long name keeps its end, with a hash of the whole
/// name.
#[must_use]
pub fn alias(tensor: &str) -> String {
    let name = tensor.strip_suffix(":0").unwrap_or(tensor);
    let name = name.strip_suffix("_output_0").unwrap_or(name);
    let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty()).collect();
    // exporters repeat a module's name in its children's: layer1, layer1.2
    let repeated = |part: &str, next: Option<&&str>| {
        next.and_then(|next| next.strip_prefix(part)).is_some_and(|rest| rest.starts_with('.'))
    };
    let kept: Vec<&str> = parts
        .iter()
        .enumerate()
        .filter(|&(i, part)| !repeated(part, parts.get(i + 1)))
        .map(|(_, part)| *part)
        .collect();
    let plain: String = kept
        .join(".")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-') { c } else { '_' })
        .collect();
    let trimmed = plain.trim_start_matches(RESERVED_BEGINNINGS).trim_end_matches('.');
    if trimmed.is_empty() {
        return "tensor".to_owned();
    }
    if is_reserved(trimmed) {
        return trimmed.replace('.', "_");
    }
    if trimmed.len() <= ALIAS_BYTES_MAX {
        return trimmed.to_owned();
    }
    let tail = trimmed.get(trimmed.len() - TAIL_BYTES..).unwrap_or_default();
    // start at a component boundary if there is one
    let tail =
        tail.split_once('.').map_or(tail, |(_, rest)| rest).trim_start_matches(RESERVED_BEGINNINGS);
    let hash =
        Sha256::digest(tensor).iter().take(4).fold(0u32, |hash, &byte| hash << 8 | u32::from(byte));
    format!("{tail}-{hash:08x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(request: &str, names: &[&str]) -> TapChoice {
        resolve(&[request.to_owned()], names).unwrap().remove(0)
    }

    fn refused(requests: &[&str], names: &[&str]) -> Error {
        let requests: Vec<String> = requests.iter().map(|&r| r.to_owned()).collect();
        resolve(&requests, names).unwrap_err()
    }

    #[test]
    fn aliases_are_short_and_plain() {
        assert_eq!(alias("/layer1/layer1.2/Relu_1_output_0"), "layer1.2.Relu_1");
        assert_eq!(alias("/features/features.9/features.9.2/Clip_output_0"), "features.9.2.Clip");
        assert_eq!(alias("model/conv1/Relu:0"), "model.conv1.Relu");
        assert_eq!(alias("getitem_12"), "getitem_12");
        assert_eq!(alias("a b@c=d"), "a_b_c_d");
        assert_eq!(alias("/../.."), "tensor");
        assert_eq!(alias("__x"), "x");
        assert_eq!(alias("größe"), "gr__e");
    }

    #[test]
    fn a_made_alias_obeys_the_rules_of_one() {
        let long = |end: &str| {
            format!("StatefulPartitionedCall/{}{end}", "block_1_expand_relu/".repeat(20))
        };
        let names = [
            long("a"),
            long("b"),
            "x".repeat(161),
            "_".repeat(400),
            "é".repeat(300),
            "a/".repeat(200),
            format!("x{}", ".".repeat(300)),
        ];
        for name in &names {
            check_alias(&alias(name)).unwrap();
            assert!(alias(name).len() <= TAIL_BYTES + 9, "{}", alias(name));
        }
        assert!(
            alias(&names[0]).starts_with("block_1_expand_relu.")
                && alias(&names[0]).contains("expand_relu.a-"),
            "{}",
            alias(&names[0])
        );
        assert_ne!(alias(&names[0]), alias(&names[1]));
        // derived names never change
        assert_eq!(alias(&"y".repeat(160)), "y".repeat(160));
        assert_eq!(
            ["zarr.json", "/Zarr.JSON_output_0", "manifest.json"].map(alias),
            ["zarr_json", "Zarr_JSON", "manifest_json"]
        );
    }

    #[test]
    fn an_input_keeps_its_name_where_it_can() {
        let long = "i".repeat(300);
        for (name, expected) in [
            ("x", "x"),
            ("_x", "_x"),
            ("__x", "x"),
            (".x", "x"),
            ("a/b:0", "a.b"),
            ("zarr.json", "zarr_json"),
        ] {
            assert_eq!(path_name(name), expected);
        }
        assert_eq!(path_name(&long), alias(&long));
        let mut taken = HashSet::new();
        assert_eq!(
            ["a.b", "A.b", "a.b"].map(|name| free(name.to_owned(), &mut taken)),
            ["a.b", "A.b-2", "a.b-3"]
        );
    }

    #[test]
    fn suffixes_are_read_from_the_right() {
        let names = ["/a/Relu_output_0"];
        let expected = TapChoice {
            tensor: names[0].into(),
            alias: "last".into(),
            layout: None,
            size: Some([8, 4]),
        };
        assert_eq!(one("/a/Relu_output_0@8x4=last", &names), expected);
        assert_eq!(one("/a/Relu_output_0=last", &names).size, None);
        assert_eq!(one("/a/Relu_output_0@8x4", &names).alias, "a.Relu");
    }

    #[test]
    fn an_exact_name_wins_over_any_suffix() {
        let names = ["x", "x=y", "x@8x8", "x@8x8=y", "m/b:1=z"];
        assert_eq!(
            one("x=y", &names),
            TapChoice { tensor: "x=y".into(), alias: "x_y".into(), layout: None, size: None }
        );
        assert_eq!(one("x@8x8", &names).size, None);
        assert_eq!(one("x@8x8=y", &names).tensor, "x@8x8=y");
        assert_eq!(
            one("x=y=k", &names),
            TapChoice { tensor: "x=y".into(), alias: "k".into(), layout: None, size: None }
        );
        assert_eq!(
            one("x@8x8@4x4", &names),
            TapChoice {
                tensor: "x@8x8".into(),
                alias: "x_8x8".into(),
                layout: None,
                size: Some([4, 4])
            }
        );
        assert_eq!(one("m/b:1=z=q", &names).alias, "q");
        assert_eq!(one("x=k", &names).alias, "k");
    }

    #[test]
    fn the_axis_order_stands_next_to_the_name() {
        let names = ["relu:0", "conv", "conv:nchw"];
        let expected = |tensor: &str, alias: &str, layout, size| TapChoice {
            tensor: tensor.into(),
            alias: alias.into(),
            layout,
            size,
        };
        assert_eq!(
            one("relu:0:nhwc", &names),
            expected("relu:0", "relu", Some(Layout::Nhwc), None)
        );
        assert_eq!(
            one("relu:0:nhwc@4x2=k", &names),
            expected("relu:0", "k", Some(Layout::Nhwc), Some([4, 2]))
        );
        assert_eq!(one("conv:nhwc", &names).layout, Some(Layout::Nhwc));
        assert_eq!(one("conv:nchw", &names), expected("conv:nchw", "conv_nchw", None, None));
        assert_eq!(one("conv:nchw:nchw", &names).layout, Some(Layout::Nchw));
        let error = refused(&["cnv:nhwc@2x2=k"], &names);
        assert!(error.to_string().contains("`cnv`"), "{error}");
    }

    #[test]
    fn made_aliases_are_unique_without_regard_to_case() {
        let requests = ["/Relu_output_0", "Relu:0", "relu", "c=relu-2"].map(String::from);
        let aliases: Vec<String> = resolve(&requests, &["/Relu_output_0", "Relu:0", "relu", "c"])
            .unwrap()
            .into_iter()
            .map(|c| c.alias)
            .collect();
        assert_eq!(aliases, ["Relu", "Relu-3", "relu-4", "relu-2"]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let names = ["/layer1/Relu_output_0", "/layer2/Relu_output_0"];
        let error = refused(&["/layer2/Rleu_output_0@8x8=k"], &names);
        assert!(error.to_string().contains("`/layer2/Rleu_output_0`"), "{error}");
        assert!(error.find_hint().unwrap().contains("`/layer2/Relu_output_0`, `/layer1"));
        assert!(
            refused(&["/layer1/Relu_output_0", "/layer1/Relu_output_0=b"], &names)
                .to_string()
                .contains("twice")
        );
        assert!(
            refused(&["/layer1/Relu_output_0=a", "/layer2/Relu_output_0=A"], &names)
                .to_string()
                .contains("alias `A`")
        );
        for bad in ["", "a/b", "..", "__x", "a b"] {
            assert!(
                refused(&[&format!("/layer1/Relu_output_0={bad}")], &names)
                    .to_string()
                    .contains("letters"),
                "{bad}"
            );
        }
        for (bad, rule) in
            [("x".repeat(161), "at most 160"), ("Zarr.json".into(), "file of the cache")]
        {
            assert!(
                refused(&[&format!("/layer1/Relu_output_0={bad}")], &names)
                    .to_string()
                    .contains(rule),
                "{bad}"
            );
        }
        assert!(refused(&["/layer1/Relu_output_0@0x8"], &names).to_string().contains("no node"));
    }
}
