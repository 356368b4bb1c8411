package link

// check finds what is wrong between objects.
func (m *Mesh) check(n *notices) {}
