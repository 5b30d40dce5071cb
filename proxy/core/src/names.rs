//! What an authority means: a service of the mesh, or a host outside it.
