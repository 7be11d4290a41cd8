/* The compiled scanner. */

#include <Python.h>

static PyObject *version(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(arguments)) {
    return PyLong_FromLong(0);
}

static PyMethodDef functions[] = {
    {"version", version, METH_NOARGS, "Return the version of the kernel's interface."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_kernel",
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__kernel(void) {
    return PyModuleDef_Init(&definition);
}
