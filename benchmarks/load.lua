-- wrk's side of serving.py: requests made beforehand, read from a file, sent in turn; figures as one line of JSON.
-- File: repeated 8 digits (bytes of a request), the request as it goes over the wire.

local requests, at = {}, 0

function init(arguments)
   local file = assert(io.open(arguments[1], "rb"))
   while true do
      local size = file:read(8)
      if not size then break end
      requests[#requests + 1] = file:read(tonumber(size))
   end
   file:close()
end

function request()
   at = at + 1
   return requests[at % #requests + 1]
end

function done(summary, latency, _)
   local e = summary.errors
   local errors = e.connect + e.read + e.write + e.status + e.timeout
   io.write(string.format('\n{"rate": %f, "p50": %f, "p99": %f, "p99.9": %f, "errors": %d}\n',
      summary.requests / (summary.duration / 1e6), latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
      latency:percentile(99.9) / 1e3, errors))
end
