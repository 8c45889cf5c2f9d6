-- Take the objects of learngenes whose time has come: what is returned may be deleted, and can no longer be recorded.
-- KEYS[1]  hash        the record of the file of each digest, current or superseded
-- KEYS[2]  sorted set  object keys by the second from which on they may be deleted
-- KEYS[3]  set         object keys that no record names any more
-- Returns  the object keys; they are in KEYS[3] until they are deleted.
-- Invariant: no object that a record names is returned.
local named = {}
for _, text in ipairs(redis.call('HVALS', KEYS[1])) do
  local read, fields = pcall(cjson.decode, text)
  if read and type(fields) == 'table' and fields.object_key then
    named[fields.object_key] = true
  end
end
local taken = {}
for _, object_key in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', redis.call('TIME')[1], 'LIMIT', 0, 1000)) do
  redis.call('ZREM', KEYS[2], object_key)
  if not named[object_key] then
    redis.call('SADD', KEYS[3], object_key)
    table.insert(taken, object_key)
  end
end
return taken
