//! Readable forms of ONNX Runtime's messages: the reason first and in one line, without source
//! files and C++ signatures.

/// The words before the failing node and before the reason.
const RUNNING: &str = "Non-zero status code returned while running ";
const STATUS: &str = "Status Message: ";
/// Beginnings that carry no information.
const PREFIXES: [&str; 3] =
    ["Exception during initialization: ", "Exception caught: ", "Load model from memory failed:"];
/// The words after a failed assertion's condition.
const CONDITION: &str = " was false.";

/// The reason in a message, after the failing node.
pub(super) fn reason(message: &str) -> String {
    // stack traces and advice follow in lines of their own
    let lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
    let found = lines.map(of_line).find(|reason| !reason.is_empty());
    found.unwrap_or_else(|| "no reason given".to_owned())
}

fn of_line(line: &str) -> String {
    let (node, text) = match line.strip_prefix(RUNNING).and_then(|rest| rest.split_once(STATUS)) {
        Some((node, text)) => (Some(node), text),
        None => (None, line),
    };
    let mut text = text.to_owned();
    while let Some(shorter) = without_source(&text) {
        text = shorter;
    }
    for prefix in PREFIXES {
        text = text.strip_prefix(prefix).unwrap_or(&text).trim_start().to_owned();
    }
    if let Some((condition, rest)) = text.split_once(CONDITION) {
        let stated = rest.trim();
        text = if stated.is_empty() { format!("expected {condition}") } else { stated.to_owned() };
    }
    let text = text.trim().trim_end_matches('.');
    match node.map(named) {
        Some(node) if text.is_empty() => node,
        Some(node) => format!("{node}: {text}"),
        None => text.to_owned(),
    }
}

/// `Add node. Name:'a/b' ` as `node a/b (Add)`.
fn named(node: &str) -> String {
    let (operator, rest) = node.split_once(" node.").unwrap_or((node, ""));
    let name = rest
        .trim()
        .strip_prefix("Name:'")
        .and_then(|name| name.strip_suffix('\''))
        .unwrap_or_default();
    if name.is_empty() { format!("a node {operator}") } else { format!("node {name} ({operator})") }
}

/// The text without its first source location and the function named after it.
fn without_source(text: &str) -> Option<String> {
    let words = text.split(' ').scan(0, |at, word| {
        let start = *at;
        *at += word.len() + 1;
        Some((start, word))
    });
    let (start, word) = words.into_iter().find(|(_, word)| is_source(word))?;
    let rest = text.get(start + word.len()..)?.trim_start();
    Some(format!("{}{}", text.get(..start)?, without_function(rest)))
}

/// `/onnxruntime_src/onnxruntime/core/graph/graph.cc:123`.
fn is_source(word: &str) -> bool {
    let Some((file, line)) = word.rsplit_once(':') else { return false };
    let is_file =
        [".cc", ".h", ".cpp", ".hpp", ".cu", ".cuh", ".inc"].iter().any(|end| file.ends_with(end));
    is_file && !line.is_empty() && line.bytes().all(|b| b.is_ascii_digit())
}

/// The text after the function that it begins with: a whole signature, or a bare name.
fn without_function(text: &str) -> &str {
    let is_signature =
        text.find('(').is_some_and(|open| text.get(..open).is_some_and(|head| head.contains("::")));
    if !is_signature {
        // a bare name has no spaces, and a reason follows it
        return match text.split_once(' ') {
            Some((name, rest)) if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') => {
                rest
            }
            _ => text,
        };
    }
    let mut depth = 0usize;
    let mut closed = false;
    for (at, character) in text.char_indices() {
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => {
                depth = depth.saturating_sub(1);
                closed |= character == ')';
            }
            // the signature ends at a space outside all brackets, after its arguments
            ' ' if depth == 0 && closed => {
                let rest = text.get(at..).unwrap_or_default().trim_start();
                let rest = rest.strip_prefix("const ").map_or(rest, str::trim_start);
                return if rest.starts_with("[with ") { behind_brackets(rest) } else { rest };
            }
            _ => {}
        }
    }
    ""
}

/// The text after the brackets that it begins with.
fn behind_brackets(text: &str) -> &str {
    let mut depth = 0usize;
    for (at, character) in text.char_indices() {
        match character {
            '[' => depth += 1,
            ']' if depth == 1 => return text.get(at + 1..).unwrap_or_default().trim_start(),
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::reason;

    #[test]
    fn the_reason_stands_first_and_alone() {
        for (message, expected) in [
            (
                "Non-zero status code returned while running SplitToSequence node. Name:'' Status \
                 Message: /onnxruntime_src/onnxruntime/core/providers/cpu/sequence/sequence_ops.\
                 cc:385 onnxruntime::common::Status \
                 onnxruntime::SplitToSequence::PrepareForCompute(const onnxruntime::TensorShape&, \
                 int64_t, int&) const split_size_sum == dim was false. the sizes sum to 3, the \
                 axis has 4.",
                "a node SplitToSequence: the sizes sum to 3, the axis has 4",
            ),
            (
                "Non-zero status code returned while running Add node. Name:'/head/Add' Status \
                 Message: /onnxruntime_src/onnxruntime/core/providers/cpu/math/element_wise_ops.h:\
                 630 void onnxruntime::BroadcastIterator::Append(ptrdiff_t, ptrdiff_t) axis == 1 \
                 || axis == largest was false. Attempting to broadcast an axis by a dimension \
                 other than 1. 3 by 4",
                "node /head/Add (Add): Attempting to broadcast an axis by a dimension other than \
                 1. 3 by 4",
            ),
            (
                "Exception during initialization: \
                 /onnxruntime_src/onnxruntime/core/providers/cpu/text/string_normalizer.cc:235 \
                 onnxruntime::StringNormalizer::StringNormalizer(const \
                 onnxruntime::OpKernelInfo&)::<lambda(int)> [with T = std::vector<int>; U = int \
                 [3]] Failed to construct a locale",
                "Failed to construct a locale",
            ),
            (
                "External data path validation failed for initializer: w. Error: \
                 tensorprotoutils.cc:592 ValidateExternalDataPathFromDir Absolute path not \
                 allowed for external data location",
                "External data path validation failed for initializer: w. Error: Absolute path \
                 not allowed for external data location",
            ),
            (
                "/onnxruntime_src/a/b.h:46 void onnxruntime::f(const \
                 std::unordered_map<std::__cxx11::basic_string<char>, int>&)\nthe opset is 99",
                "the opset is 99",
            ),
            (
                "/onnxruntime_src/a.cc:1 bool onnxruntime::g(int) size == 4 was false.",
                "expected size == 4",
            ),
            (
                "Fatal error: my.ops:MyRelu(-1) is not a registered function/op\nStacktrace:\n",
                "Fatal error: my.ops:MyRelu(-1) is not a registered function/op",
            ),
            (
                "Type Error: Type 'tensor(bfloat16)' of input parameter (x) is invalid.",
                "Type Error: Type 'tensor(bfloat16)' of input parameter (x) is invalid",
            ),
            ("", "no reason given"),
            ("/a/b.cc:7", "no reason given"),
            ("größe::é(", "größe::é("),
        ] {
            assert_eq!(reason(message), expected);
        }
    }
}
