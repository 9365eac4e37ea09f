/* Streams and events, as far as compute time has to do with them: who finds work done is told of, who
 * goes is forgotten, and what is captured is left alone. None of it waits.
 */
#include "time.h"

/* -- Asking ------------------------------------------------------------------------------------------ */

static inline CUresult asked(CUresult result) {
    if (result == CUDA_SUCCESS)
        aliquot_time_waited();
    return result;
}

CUresult aliquot_cuStreamQuery(CUstream stream) { return asked(REAL(cuStreamQuery)(stream)); }

CUresult aliquot_cuStreamQuery_ptsz(CUstream stream) {
    return asked(REAL(cuStreamQuery_ptsz)(stream));
}

CUresult aliquot_cuEventQuery(CUevent event) { return asked(REAL(cuEventQuery)(event)); }

/* -- Ending ------------------------------------------------------------------------------------------ */

CUresult aliquot_cuStreamDestroy(CUstream stream) {
    aliquot_marks_stream_leaves((uintptr_t)stream);
    return REAL(cuStreamDestroy)(stream);
}

CUresult aliquot_cuStreamDestroy_v2(CUstream stream) {
    aliquot_marks_stream_leaves((uintptr_t)stream);
    return REAL(cuStreamDestroy_v2)(stream);
}

/* -- Capturing --------------------------------------------------------------------------------------- */

static inline CUresult began(CUresult result) {
    if (result != CUDA_SUCCESS)
        aliquot_marks_capture(-1);
    return result;
}

#define BEGIN(symbol, parameters, arguments)                                                       \
    CUresult aliquot_##symbol parameters {                                                         \
        aliquot_marks_capture(1);                                                                  \
        return began(REAL(symbol) arguments);                                                      \
    }

/* A capture that has failed ends here too; where there is none, none is ended. */
#define END(symbol, parameters, arguments)                                                         \
    CUresult aliquot_##symbol parameters {                                                         \
        CUresult result = REAL(symbol) arguments;                                                  \
        if (result == CUDA_SUCCESS || result == CUDA_ERROR_STREAM_CAPTURE_INVALIDATED ||           \
            result == CUDA_ERROR_STREAM_CAPTURE_UNJOINED)                                          \
            aliquot_marks_capture(-1);                                                             \
        return result;                                                                             \
    }

BEGIN(cuStreamBeginCapture, (CUstream stream), (stream))
BEGIN(cuStreamBeginCapture_ptsz, (CUstream stream), (stream))
BEGIN(cuStreamBeginCapture_v2, (CUstream stream, CUstreamCaptureMode mode), (stream, mode))
BEGIN(cuStreamBeginCapture_v2_ptsz, (CUstream stream, CUstreamCaptureMode mode), (stream, mode))

#define CIG (CUstream stream, CUstreamCigCaptureParams * parameters)
BEGIN(cuStreamBeginCaptureToCig, CIG, (stream, parameters))
BEGIN(cuStreamBeginCaptureToCig_ptsz, CIG, (stream, parameters))

#define TO_GRAPH                                                                                   \
    (CUstream stream, CUgraph graph, const CUgraphNode *node, const CUgraphEdgeData *edge,         \
     size_t count, CUstreamCaptureMode mode)
BEGIN(cuStreamBeginCaptureToGraph, TO_GRAPH, (stream, graph, node, edge, count, mode))
BEGIN(cuStreamBeginCaptureToGraph_ptsz, TO_GRAPH, (stream, graph, node, edge, count, mode))

#define AGAIN                                                                                      \
    (CUstream stream, CUstreamCaptureMode mode, CUgraph graph, CUgraphRecaptureCallback callback,  \
     void *argument)
BEGIN(cuStreamBeginRecaptureToGraph, AGAIN, (stream, mode, graph, callback, argument))
BEGIN(cuStreamBeginRecaptureToGraph_ptsz, AGAIN, (stream, mode, graph, callback, argument))

END(cuStreamEndCapture, (CUstream stream, CUgraph *graph), (stream, graph))
END(cuStreamEndCapture_ptsz, (CUstream stream, CUgraph *graph), (stream, graph))
END(cuStreamEndCaptureToCig, (CUstream stream), (stream))
END(cuStreamEndCaptureToCig_ptsz, (CUstream stream), (stream))
