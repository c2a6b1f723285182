//! The `zarr.json` documents: each a pure function of the manifest.
