//! The certificate authority, join tokens, certificates and their rotation.
