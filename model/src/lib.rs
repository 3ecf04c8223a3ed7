//! Pure types and decisions: it can open no file, socket, clock or map.
