/* Graphs: their structure. What nodes do is in graph_params.c, what is launched in graph_exec.c. */
#include "graph.h"

#include <stdlib.h>
#include <string.h>

static struct sim_slots graphs, nodes;
static pthread_once_t once = PTHREAD_ONCE_INIT;

enum { GRAPH_SLOT = 128, GRAPH_SLOTS = 1 << 22, NODE_SLOT = 512, NODE_SLOTS = 1 << 22 };
_Static_assert(sizeof(struct sim_graph) <= GRAPH_SLOT, "a graph fits its slot");
_Static_assert(sizeof(struct sim_graph_node) <= NODE_SLOT, "a node fits its slot");

static void make_slots(void) {
    sim_slots_init(&graphs, GRAPH_SLOT, GRAPH_SLOTS);
    sim_slots_init(&nodes, NODE_SLOT, NODE_SLOTS);
}

struct sim_graph *sim_graph_find(CUgraph handle) {
    return sim_slots_get(&graphs, handle);
}

struct sim_graph_node *sim_graph_node_find(CUgraphNode handle) {
    return sim_slots_get(&nodes, handle);
}

uint64_t sim_graph_mark(void) {
    static uint64_t mark;
    return ++mark;
}

/* ---- Edges --------------------------------------------------------------------------------- */

static const CUgraphEdgeData full_edge;

bool sim_edges_add(struct sim_edges *edges, struct sim_graph_node *node,
                   const CUgraphEdgeData *data) {
    if (edges->count == edges->room) {
        size_t room = edges->room == 0 ? 4 : edges->room * 2;
        void *more_nodes = realloc(edges->node, room * sizeof *edges->node);
        if (more_nodes == NULL)
            return false;
        edges->node = more_nodes;
        void *more_data = realloc(edges->data, room * sizeof *edges->data);
        if (more_data == NULL)
            return false;
        edges->data = more_data;
        edges->room = room;
    }
    edges->node[edges->count] = node;
    edges->data[edges->count++] = data != NULL ? *data : full_edge;
    return true;
}

size_t sim_edges_find(const struct sim_edges *edges, const struct sim_graph_node *node,
                      const CUgraphEdgeData *data) {
    if (data == NULL)
        data = &full_edge;
    for (size_t i = 0; i < edges->count; i++)
        if (edges->node[i] == node && memcmp(&edges->data[i], data, sizeof *data) == 0)
            return i;
    return SIZE_MAX;
}

void sim_edges_remove(struct sim_edges *edges, size_t place) {
    size_t behind = edges->count - place - 1;
    memmove(edges->node + place, edges->node + place + 1, behind * sizeof *edges->node);
    memmove(edges->data + place, edges->data + place + 1, behind * sizeof *edges->data);
    edges->count--;
}

void sim_edges_free(struct sim_edges *edges) {
    free(edges->node);
    free(edges->data);
    *edges = (struct sim_edges){0};
}

/* Whether a node of that type gives and takes what the edge asks for. */
static bool edge_possible(const struct sim_graph_node *from, const CUgraphEdgeData *data) {
    static const unsigned char none[sizeof data->reserved];
    if (data == NULL)
        return true;
    if (data->to_port != 0 || memcmp(data->reserved, none, sizeof none) != 0 ||
        data->type > CU_GRAPH_DEPENDENCY_TYPE_PROGRAMMATIC)
        return false;
    if (data->from_port == CU_GRAPH_KERNEL_NODE_PORT_DEFAULT)
        return data->type == CU_GRAPH_DEPENDENCY_TYPE_DEFAULT ||
               from->params.api.type == CU_GRAPH_NODE_TYPE_KERNEL;
    return data->from_port <= CU_GRAPH_KERNEL_NODE_PORT_LAUNCH_ORDER &&
           from->params.api.type == CU_GRAPH_NODE_TYPE_KERNEL;
}

/* G: whether `to` can be reached from `from`. */
static bool leads_to(struct sim_graph_node *from, const struct sim_graph_node *to,
                     bool *no_memory) {
    struct sim_edges stack = {0};
    uint64_t mark = sim_graph_mark();
    bool found = false;
    *no_memory = !sim_edges_add(&stack, from, NULL);
    while (!*no_memory && !found && stack.count > 0) {
        struct sim_graph_node *node = stack.node[--stack.count];
        if (node->mark == mark)
            continue;
        node->mark = mark;
        found = node == to;
        for (size_t i = 0; i < node->after.count && !*no_memory; i++)
            *no_memory = !sim_edges_add(&stack, node->after.node[i], NULL);
    }
    sim_edges_free(&stack);
    return found;
}

static CUresult connect(struct sim_graph_node *from, struct sim_graph_node *to,
                        const CUgraphEdgeData *data) {
    if (!edge_possible(from, data) || sim_edges_find(&to->before, from, data) != SIZE_MAX)
        return CUDA_ERROR_INVALID_VALUE;
    if (!sim_edges_add(&to->before, from, data))
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (!sim_edges_add(&from->after, to, data)) {
        to->before.count--;
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    return CUDA_SUCCESS;
}

static void disconnect(struct sim_graph_node *from, struct sim_graph_node *to,
                       const CUgraphEdgeData *data) {
    size_t place = sim_edges_find(&to->before, from, data);
    if (place != SIZE_MAX)
        sim_edges_remove(&to->before, place);
    place = sim_edges_find(&from->after, to, data);
    if (place != SIZE_MAX)
        sim_edges_remove(&from->after, place);
}

CUresult sim_graph_connect(struct sim_graph_node *from, struct sim_graph_node *to,
                           const CUgraphEdgeData *data) {
    bool no_memory;
    if (from->graph != to->graph || from == to)
        return CUDA_ERROR_INVALID_VALUE;
    if (leads_to(to, from, &no_memory))
        return CUDA_ERROR_INVALID_VALUE; /* a circle */
    return no_memory ? CUDA_ERROR_OUT_OF_MEMORY : connect(from, to, data);
}

CUresult sim_graph_disconnect(struct sim_graph_node *from, struct sim_graph_node *to,
                              const CUgraphEdgeData *data) {
    if (from->graph != to->graph || sim_edges_find(&to->before, from, data) == SIZE_MAX)
        return CUDA_ERROR_INVALID_VALUE;
    disconnect(from, to, data);
    return CUDA_SUCCESS;
}

/* ---- Nodes --------------------------------------------------------------------------------- */

static bool make_room(struct sim_graph *graph) {
    if (graph->count < graph->room)
        return true;
    size_t room = graph->room == 0 ? 8 : graph->room * 2;
    void *more = realloc(graph->nodes, room * sizeof(struct sim_graph_node *));
    if (more == NULL)
        return false;
    graph->nodes = more;
    graph->room = room;
    return true;
}

static void free_node(struct sim_graph_node *node, struct sim_graph_object **objects) {
    if (node->params.api.type == CU_GRAPH_NODE_TYPE_GRAPH) {
        struct sim_graph *child = sim_graph_find(node->params.api.graph.graph);
        if (child != NULL) {
            child->parent = NULL;
            sim_graph_unmake(child, objects);
        }
    }
    sim_node_params_free(&node->params);
    sim_edges_free(&node->before);
    sim_edges_free(&node->after);
    if (sim_handle_end(node))
        sim_slots_give(&nodes, node);
}

static bool is_memory_node(const struct sim_node_params *params) {
    return params->api.type == CU_GRAPH_NODE_TYPE_MEM_ALLOC ||
           params->api.type == CU_GRAPH_NODE_TYPE_MEM_FREE;
}

/* Counts the memory nodes of a graph in it and all graphs around it. */
static void count_memory(struct sim_graph *graph, uint32_t more, uint32_t less) {
    for (;;) {
        graph->allocations += more - less;
        if (graph->parent == NULL)
            return;
        graph = graph->parent->graph;
    }
}

/* Whether a node of the graph frees that memory. */
static bool frees(const struct sim_graph *graph, CUdeviceptr ptr) {
    for (size_t i = 0; i < graph->count && graph->allocations > 0; i++)
        if (graph->nodes[i]->params.api.type == CU_GRAPH_NODE_TYPE_MEM_FREE &&
            graph->nodes[i]->params.api.free.dptr == ptr)
            return true;
    return false;
}

CUresult sim_graph_add(struct sim_graph *graph, struct sim_graph_node *const *before,
                       const CUgraphEdgeData *data, size_t count, struct sim_node_params *params,
                       struct sim_graph_node **out) {
    for (size_t i = 0; i < count; i++)
        if (before[i]->graph != graph)
            return CUDA_ERROR_INVALID_VALUE;
    if (params->api.type == CU_GRAPH_NODE_TYPE_MEM_FREE && frees(graph, params->api.free.dptr))
        return CUDA_ERROR_INVALID_VALUE; /* twice */
    struct sim_graph_node *node = make_room(graph) ? sim_slots_take(&nodes) : NULL;
    if (node == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    node->graph = graph;
    node->id = graph->next_id;
    node->params.api.type = CU_GRAPH_NODE_TYPE_EMPTY; /* until the edges are made */
    for (size_t i = 0; i < count; i++) {
        CUresult result = connect(before[i], node, data != NULL ? &data[i] : NULL);
        if (result == CUDA_SUCCESS)
            continue;
        while (i-- > 0)
            disconnect(before[i], node, data != NULL ? &data[i] : NULL);
        sim_edges_free(&node->before);
        sim_slots_give(&nodes, node);
        return result;
    }
    node->params = *params;
    graph->next_id++;
    graph->nodes[graph->count++] = node;
    if (is_memory_node(params))
        count_memory(graph, 1, 0);
    if (params->api.type == CU_GRAPH_NODE_TYPE_GRAPH) {
        struct sim_graph *child = sim_graph_find(params->api.graph.graph);
        child->parent = node;
        if (child->allocations > 0)
            count_memory(graph, child->allocations, 0);
    }
    sim_slots_publish(node);
    *out = node;
    return CUDA_SUCCESS;
}

static size_t place_of(const struct sim_graph *graph, uint32_t id) {
    size_t low = 0, high = graph->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (graph->nodes[middle]->id < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct sim_graph_node *sim_graph_node_by_id(const struct sim_graph *graph, uint32_t id) {
    size_t place = place_of(graph, id);
    return place < graph->count && graph->nodes[place]->id == id ? graph->nodes[place] : NULL;
}

void sim_graph_remove(struct sim_graph_node *node, struct sim_graph_object **objects) {
    struct sim_graph *graph = node->graph;
    while (node->before.count > 0) {
        const CUgraphEdgeData data = node->before.data[0];
        disconnect(node->before.node[0], node, &data);
    }
    while (node->after.count > 0) {
        const CUgraphEdgeData data = node->after.data[0];
        disconnect(node, node->after.node[0], &data);
    }
    size_t place = place_of(graph, node->id);
    memmove(graph->nodes + place, graph->nodes + place + 1,
            (graph->count - place - 1) * sizeof *graph->nodes);
    graph->count--;
    free_node(node, objects);
}

/* ---- Graphs -------------------------------------------------------------------------------- */

struct sim_graph *sim_graph_make(void) {
    static uint32_t ids; /* G */
    pthread_once(&once, make_slots);
    if (graphs.base == NULL || nodes.base == NULL)
        return NULL;
    struct sim_graph *graph = sim_slots_take(&graphs);
    if (graph == NULL)
        return NULL;
    graph->id = ++ids;
    sim_slots_publish(graph);
    return graph;
}

void sim_graph_unmake(struct sim_graph *graph, struct sim_graph_object **objects) {
    if (!sim_handle_end(graph))
        return;
    for (size_t i = 0; i < graph->count; i++)
        free_node(graph->nodes[i], objects);
    free(graph->nodes);
    while (graph->objects != NULL) {
        struct sim_graph_object *object = graph->objects;
        graph->objects = object->next;
        object->next = *objects;
        *objects = object;
    }
    sim_slots_give(&graphs, graph);
}

/* The nodes of a copy, without their edges. */
static CUresult copy_nodes(const struct sim_graph *graph, bool executable, struct sim_graph *copy) {
    for (size_t i = 0; i < graph->count; i++) {
        struct sim_node_params params;
        struct sim_graph_node *node;
        CUresult result = sim_node_params_copy(&graph->nodes[i]->params, executable, &params);
        if (result != CUDA_SUCCESS)
            return result;
        result = sim_graph_add(copy, NULL, NULL, 0, &params, &node);
        if (result != CUDA_SUCCESS) {
            sim_node_params_free(&params);
            return result;
        }
        node->id = graph->nodes[i]->id;
        node->disabled = graph->nodes[i]->disabled;
        graph->nodes[i]->index = (uint32_t)i;
    }
    copy->next_id = graph->next_id;
    return CUDA_SUCCESS;
}

static CUresult copy_edges(const struct sim_graph *graph, struct sim_graph *copy) {
    for (size_t i = 0; i < graph->count; i++) {
        const struct sim_edges *before = &graph->nodes[i]->before;
        for (size_t j = 0; j < before->count; j++) {
            CUresult result =
                connect(copy->nodes[before->node[j]->index], copy->nodes[i], &before->data[j]);
            if (result != CUDA_SUCCESS)
                return result;
        }
    }
    return CUDA_SUCCESS;
}

CUresult sim_graph_copy(const struct sim_graph *graph, bool executable, struct sim_graph **out) {
    if (graph->allocations > 0 && !executable)
        return CUDA_ERROR_NOT_SUPPORTED;
    struct sim_graph *copy = sim_graph_make();
    if (copy == NULL)
        return CUDA_ERROR_OUT_OF_MEMORY;
    copy->cloned_from = graph->id;
    CUresult result = copy_nodes(graph, executable, copy);
    if (result == CUDA_SUCCESS)
        result = copy_edges(graph, copy);
    if (result == CUDA_SUCCESS)
        result = sim_graph_objects_copy(graph, copy);
    if (result != CUDA_SUCCESS) {
        struct sim_graph_object *objects = NULL;
        sim_graph_unmake(copy, &objects);
        sim_graph_objects_release(objects);
        return result;
    }
    *out = copy;
    return CUDA_SUCCESS;
}
