//! Envelope and framing (pure); QUIC between sites under mutual TLS (feature net).
