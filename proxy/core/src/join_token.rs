//! The token with which a workload joins the mesh.
