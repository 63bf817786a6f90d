/* recorder._native: the hot path in C. recorder/_native.pyi says what each part does; scan.h does the reading. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "scan.h"

/* A converter for PyArg_ParseTuple: unlike `K` it raises OverflowError for a number that does not fit. */
static int to_unsigned(PyObject *number, void *made) {
    unsigned long long value = PyLong_AsUnsignedLongLong(number);
    *(uint64_t *)made = value;
    return !(value == (unsigned long long)-1 && PyErr_Occurred());
}

/* ---- WebSocket frames ---- */

static PyObject *split(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer data;
    uint64_t limit;
    PyObject *payloads;
    if (!PyArg_ParseTuple(args, "y*O&O!:split", &data, to_unsigned, &limit, &PyList_Type, &payloads))
        return NULL;
    text begin = data.buf, at = begin, end = begin + data.len;
    struct wire_frame frame = {0};
    bool failed = false;
    while (wire_frame_at(at, end, limit, true, &frame) && !frame.odd_size && !failed) {
        PyObject *payload = PyBytes_FromStringAndSize((const char *)frame.payload, (Py_ssize_t)frame.payload_size);
        failed = !payload || PyList_Append(payloads, payload);
        Py_XDECREF(payload);
        at = frame.payload + frame.payload_size;
    }
    PyBuffer_Release(&data);
    return failed ? NULL : Py_BuildValue("nK", (Py_ssize_t)(at - begin), (unsigned long long)frame.odd_size);
}

static PyObject *index_frames(PyObject *module, PyObject *args) {
    (void)module;
    Py_buffer data;
    uint64_t limit;
    if (!PyArg_ParseTuple(args, "y*O&:index", &data, to_unsigned, &limit))
        return NULL;
    text begin = data.buf, at = begin, end = begin + data.len;
    struct wire_frame frame = {0};
    uint64_t count = 0, largest = 0, sum = 0;
    while (wire_frame_at(at, end, limit, false, &frame) && !frame.odd_size) {
        count++;
        sum += frame.payload_size;
        if (frame.payload_size > largest)
            largest = frame.payload_size;
        at = frame.payload + frame.payload_size;
    }
    PyBuffer_Release(&data);
    return Py_BuildValue("nKKKK", (Py_ssize_t)(at - begin), (unsigned long long)frame.odd_size,
                         (unsigned long long)count, (unsigned long long)largest, (unsigned long long)sum);
}

/* ---- the module ---- */

static PyMethodDef functions[] = {
    {"split", split, METH_VARARGS, NULL},
    {"index", index_frames, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "recorder._native",
    .m_methods = functions,
};

PyMODINIT_FUNC PyInit__native(void) {
    return PyModuleDef_Init(&definition);
}
