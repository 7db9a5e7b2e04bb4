//! On-disk formats: journal files, fragment extents, catalog; crash-safe over an injectable file layer.
