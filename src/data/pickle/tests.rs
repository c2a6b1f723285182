//! What pickles ask for, and what they get.

use super::*;

fn refused(bytes: &[u8], what: &str) {
    let error = dictionary(bytes).unwrap_err().to_string();
    assert!(error.contains(what), "{error}");
}

#[test]
fn every_protocol_up_to_4_is_read() {
    let expected = BTreeMap::from([
        (
            b"a".as_slice(),
            Value::List(vec![Value::Number(1), Value::Number(-2), Value::Number(300)]),
        ),
        (b"b".as_slice(), Value::Text(b"xy")),
        (b"n".as_slice(), Value::None),
    ]);
    // pickle.dumps({"a": [1, -2, 300], "b": "xy", "n": None}, protocol)
    for bytes in [
        &b"(dS'a'\np0\n(lp1\nI1\naI-2\naI300\nasS'b'\nS'xy'\nsS'n'\nNs."[..],
        b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffM,\x01e\
          X\x01\x00\x00\x00b\
          q\x03X\x02\x00\x00\x00xyq\x04X\x01\x00\x00\x00nq\x05Nu.",
        b"\x80\x04\x95\x23\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94](K\x01J\xfe\xff\
          \xff\xffM,\x01e\x8c\x01b\x94\x8c\x02xy\x94\x8c\x01n\x94Nu.",
    ] {
        assert_eq!(dictionary(bytes).unwrap(), expected);
    }
    let again = dictionary(b"}(U\x01aq\x01h\x01U\x01b\x8a\x02\xff\xffu.").unwrap();
    assert_eq!(
        again,
        BTreeMap::from([(b"a".as_slice(), Value::Text(b"a")), (b"b", Value::Number(-1))])
    );
}

#[test]
fn nothing_is_called() {
    refused(b"cos\nsystem\n(S'true'\ntR.", "found os.system, which is not called");
    refused(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "found builtins.eval");
    refused(b"cnumpy\ndtype\n(U\x02O8tR.", "expected an array of uint8, found O8");
    refused(b"cnumpy\nndarray\n)R.", "expected an array of numpy");
    refused(b"(i__main__\nX\n.", "found the opcode 0x69");
    refused(b"\x80\x05}.", "expected protocol 0 to 4, found 5");
}

#[test]
fn other_shapes_are_refused() {
    refused(b"", "expected more bytes");
    refused(b"K\x01.", "expected a dictionary");
    refused(b"}.x", "expected its end");
    refused(b"}}.", "expected its end");
    refused(b"}K\x01K\x01s.", "expected texts as keys");
    refused(b"}(U\x01aK\x01U\x01aK\x02u.", "found a twice");
    refused(b"}(U\x01au.", "expected texts as keys, with a value each");
    refused(b"}U\x01a}s.", "expected a number, a text, a list or an array");
    refused(b"](]e", "expected a list of numbers or texts");
    refused(b"]q\x01h\x01a", "expected a list of numbers or texts");
    refused(b"))\x85\x85\x85", "expected tuples of numbers");
    refused(b"a", "found none");
    refused(b"(.", "found none");
    refused(b"\x85", "expected more values");
    refused(b"h\x07", "that was there before");
    refused(b"T\xff\xff\xff\x7f", "expected more bytes");
    refused(&vec![b'N'; MOST + 1], "of at most 2097152 steps");
    refused(&[0x8e, 255, 255, 255, 255, 255, 255, 255, 255], "expected more bytes");
}
