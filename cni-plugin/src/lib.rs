//! weft-cni, the CNI plugin.
