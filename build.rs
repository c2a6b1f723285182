//! Generates the ONNX types from `proto/onnx.proto`, without a `protoc` on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/onnx.proto");
    let descriptors = protox::compile(["proto/onnx.proto"], ["proto"])?;
    // tensors' raw bytes are shared with the file's buffer, not copied
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
