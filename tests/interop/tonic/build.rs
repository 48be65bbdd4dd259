// INTEROP_PROTO names the proto file; PROTOC the compiler (prost reads it).
fn main() {
    println!("cargo:rerun-if-env-changed=INTEROP_PROTO");
    let proto = std::path::PathBuf::from(std::env::var("INTEROP_PROTO").expect("INTEROP_PROTO is set"));
    println!("cargo:rerun-if-changed={}", proto.display());
    let folder = proto.parent().expect("the proto file is in a folder").to_path_buf();
    tonic_prost_build::configure().compile_protos(&[proto], &[folder]).expect("the proto file compiles");
}
