//! Generated gRPC and protobuf code of every protocol that Skerry speaks.
