//! What the interop client and server share.

pub mod testing {
    tonic::include_proto!("grpc.testing");
}

pub const INITIAL: &str = "x-grpc-test-echo-initial";
pub const TRAILING: &str = "x-grpc-test-echo-trailing-bin";

/// A payload of `size` zeros.
pub fn payload(size: usize) -> Option<testing::Payload> {
    Some(testing::Payload { r#type: testing::PayloadType::Compressable as i32, body: vec![0; size] })
}

/// The text after `--NAME=` or `--NAME ` among the arguments.
pub fn argument(name: &str) -> Option<String> {
    let flag = format!("--{name}");
    let arguments: Vec<String> = std::env::args().collect();
    arguments.iter().enumerate().find_map(|(index, argument)| {
        if *argument == flag {
            arguments.get(index + 1).cloned()
        } else {
            argument.strip_prefix(&format!("{flag}=")).map(str::to_owned)
        }
    })
}
