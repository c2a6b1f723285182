//! `manifest.json` as bytes: `{"sha256":"…",⏎"manifest":…}⏎`, where the hash covers the
//! manifest's own bytes. It is valid JSON and every byte is checked: the frame is fixed, the rest
//! is hashed.

use super::Manifest;
use crate::error::{Context, Error, Result};
use crate::hash::sha256;
use crate::json::{self, Lacking};
use crate::storage::{self, Lock};
use serde_json::Value;
use std::path::Path;

/// The file's name in the cache's folder.
pub(super) const NAME: &str = "manifest.json";

/// A manifest is read whole before anything in it is known, so its size is bounded; this is enough
/// for half a million segments of ten arrays.
const BYTES_MAX: u64 = 256 << 20;

const KEY: &str = "manifest";
const HEAD: &[u8] = b"{\"sha256\":\"";
const TAIL: &[u8] = b"}\n";
const HASH: usize = 64;

/// Encodes a manifest as a framed document.
pub(super) fn encode(manifest: &Manifest) -> Result<Vec<u8>> {
    let body = serde_json::to_vec(manifest)
        .context(|| "manifest: cannot be written as JSON".to_owned())?;
    Ok(frame(KEY, &body))
}

/// `{"sha256":"…",⏎"KEY":BODY}⏎`: the body with its hash.
pub(super) fn frame(key: &str, body: &[u8]) -> Vec<u8> {
    [HEAD, sha256(body).as_bytes(), middle(key).as_bytes(), body, TAIL].concat()
}

/// The body of a framed document.
///
/// # Errors
/// The problem, in words.
pub(super) fn unframe<'a>(key: &str, bytes: &'a [u8]) -> Result<&'a [u8], String> {
    let (hash, body) = (|| {
        let (hash, rest) = bytes.strip_prefix(HEAD)?.split_at_checked(HASH)?;
        Some((hash, rest.strip_prefix(middle(key).as_bytes())?.strip_suffix(TAIL)?))
    })()
    .ok_or_else(|| format!("damaged, or not an nst-cache {key}"))?;
    if sha256(body).as_bytes() == hash {
        Ok(body)
    } else {
        Err("damaged: checksum does not match".to_owned())
    }
}

fn middle(key: &str) -> String {
    format!("\",\n\"{key}\":")
}

/// Decodes and validates the manifest in a document.
///
/// # Errors
/// The problem, in words.
fn decode(bytes: &[u8]) -> Result<Manifest, String> {
    let body = unframe(KEY, bytes)?;
    // a newer format may have fields that this code does not know, so its version is checked first
    let version: Version = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    let (first, last) = (Manifest::FORMAT, Manifest::FORMAT_LAST);
    if !(first..=last).contains(&version.format) {
        return Err(format!(
            "expected format {first} to {last}, found format {} written by {}",
            version.format, version.tool
        ));
    }
    let manifest: Manifest = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    manifest.validate()?;
    Ok(manifest)
}

#[derive(serde::Deserialize)]
struct Version {
    format: u32,
    tool: String,
}

/// Reads and checks the manifest in a folder; `None` if there is none.
pub(super) fn load(folder: &Path) -> Result<Option<Manifest>> {
    let path = folder.join(NAME);
    let Some(bytes) = storage::read_bounded(&path, BYTES_MAX)? else { return Ok(None) };
    decode(&bytes).map(Some).map_err(|problem| {
        let hint = if problem.starts_with("expected format") {
            "use the nst-cache that wrote it, or extract again into another folder"
        } else {
            "a cache is unusable without its manifest: remove the folder and extract again"
        };
        Error::input(format!("{}: {problem}", path.display())).hint(hint)
    })
}

/// Commits a manifest.
pub(super) fn store(lock: &Lock, manifest: &Manifest) -> Result<()> {
    lock.replace(NAME, &encode(manifest)?)
}

/// Manifest fields, causes before consequences, so that the first difference explains the most.
const FIELDS: [&str; 13] = [
    "teacher",
    "data",
    "augment",
    "logits",
    "format",
    "tool",
    "taps",
    "views",
    "seed",
    "row_arrays",
    "view_arrays",
    "segment_rows",
    "rows",
];

/// Fields that may differ between two runs of the same extraction: names for people, results, and
/// values compared elsewhere (skipped samples are missing from `sample_id`).
const IGNORED: [&str; 4] =
    ["/teacher/file", "/teacher/top1_basis_points", "/data/spec", "/data/skipped"];

/// The first field in which a cache's manifest differs from the one that a run requires: name,
/// expected, found.
pub(super) fn difference(
    expected: &Manifest,
    found: &Manifest,
) -> Option<(String, String, String)> {
    let compared = |manifest: &Manifest| {
        let mut value = serde_json::to_value(manifest).ok()?;
        for field in IGNORED {
            if let Some(place) = value.pointer_mut(field) {
                *place = Value::Null;
            }
        }
        Some(value)
    };
    let (expected, found) = (compared(expected)?, compared(found)?);
    // an omitted field stands for null
    let of_field = |manifest: &Value, field: &str| manifest.get(field).cloned().unwrap_or_default();
    FIELDS.iter().find_map(|field| {
        let (expected, found) = (of_field(&expected, field), of_field(&found, field));
        let first = json::difference(field, &expected, &found, Lacking::Anything)?;
        let (before, now) = match (first.before, first.now) {
            (Value::Array(e), Value::Array(f))
                if e.iter().chain(f).any(|v| v.is_array() || v.is_object()) =>
            {
                (format!("{} entries", e.len()), format!("{} entries", f.len()))
            }
            (before, now) => (shown(before), shown(now)),
        };
        Some((first.path, before, now))
    })
}

/// A value in a message: one line, shortened so that class names do not fill the screen.
fn shown(value: &Value) -> String {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::float_cmp,
        reason = "a number that was f32 is shown with the digits of one"
    )]
    let text = match value.as_f64().map(|wide| (wide, wide as f32)) {
        Some((wide, narrow)) if value.is_f64() && f64::from(narrow) == wide => narrow.to_string(),
        _ => value.to_string(),
    };
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Codec, testing};
    use super::*;

    #[test]
    fn a_manifest_comes_back_and_every_changed_byte_is_seen() {
        let manifest = testing::manifest(10, 2, Codec::Zstd);
        let bytes = encode(&manifest).unwrap();
        assert_eq!(decode(&bytes), Ok(manifest));
        assert!(serde_json::from_slice::<serde_json::Value>(&bytes).is_ok());
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x04;
            assert!(decode(&bad).is_err(), "byte {at}");
        }
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_newer_format_is_refused_with_its_version_even_with_unknown_fields() {
        let body = br#"{"format":8,"tool":"nst-cache 9.0.0","surprise":1}"#;
        let bytes = frame(KEY, body);
        let known = Manifest::FORMAT_LAST;
        assert_eq!(
            decode(&bytes),
            Err(format!("expected format 1 to {known}, found format 8 written by nst-cache 9.0.0"))
        );
    }

    #[test]
    fn the_first_difference_is_named_with_both_values() {
        let manifest = testing::manifest(10, 2, Codec::Zstd);
        let difference_after = |change: fn(&mut Manifest)| {
            let mut other = manifest.clone();
            change(&mut other);
            difference(&manifest, &other)
        };
        let named =
            |name: &str, e: &str, f: &str| Some((name.to_owned(), e.to_owned(), f.to_owned()));
        assert_eq!(difference_after(|_| ()), None);
        assert_eq!(difference_after(|m| m.teacher.top1_basis_points = Some(9000)), None);
        assert_eq!(difference_after(|m| m.data.spec = "elsewhere".into()), None);
        assert_eq!(
            difference_after(|m| m.teacher.sha256 = "ff".into()),
            named("teacher.sha256", "\"00\"", "\"ff\"")
        );
        assert_eq!(
            difference_after(|m| m.data.fingerprint.samples = 3),
            named("data.fingerprint.samples", "100", "3")
        );
        assert_eq!(difference_after(|m| m.data.limit = None), named("data.limit", "10", "null"));
        let flip = crate::data::Augmentation {
            geometry: crate::data::Augment::Flip,
            ..crate::data::Augmentation::NONE
        };
        let mut other = manifest.clone();
        other.augment = Some(flip.clone());
        assert_eq!(
            difference(&manifest, &other).map(|d| (d.0, d.1)),
            Some(("augment".to_owned(), "null".to_owned()))
        );
        let mut blended = other.clone();
        blended.augment = Some(crate::data::Augmentation { mixup: Some(0.5), ..flip });
        assert_eq!(difference(&other, &blended), named("augment.mixup", "null", "0.5"));
        assert_eq!(difference_after(|m| m.taps.clear()), named("taps", "1 entries", "0 entries"));
        assert_eq!(
            difference_after(|m| m.view_arrays[1].codec = Codec::Raw),
            named("view_arrays[1].codec", "\"zstd\"", "\"raw\"")
        );
        assert_eq!(difference_after(|m| m.rows = 9), named("rows", "10", "9"));
        assert_eq!(
            difference_after(|m| m.tool = "nst-cache 0.0.0".into()),
            named("tool", "\"nst-cache 0.1.0\"", "\"nst-cache 0.0.0\"")
        );
    }

    #[test]
    fn an_oversized_manifest_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        std::fs::File::create(&path).unwrap().set_len(BYTES_MAX + 1).unwrap();
        assert!(load(folder.path()).unwrap_err().chain().contains("at most"));
        std::fs::write(&path, b"{}").unwrap();
        assert!(load(folder.path()).unwrap_err().find_hint().is_some());
    }
}
